"""How much learning from one labelled text would lower the loss of others: products of gradients.

TracIn with one checkpoint (Pruthi et al. 2020, arXiv:2002.08484): the influence of z on z' is the product of the
gradients of their losses, here of the weights of the last block alone. The mean gradient of the validation texts is one
direction, and the products of all gradients with it are the losses' derivatives along it: one pass forward for a
batch, and no gradient of any single text is ever made.

Legend: B rows of a batch, N texts, T positions.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.model.transformer import Transformer
from pipeline.tasks.batches import pad_rows

ROWS = 16
Example = tuple[list[int], list[int]]  # the ids of a prompt and of its answer


def last_block(model: Transformer) -> dict[str, Tensor]:
    """The parameters of a decoder's last block, by name."""
    prefix = f"decoder.blocks.{model.config.decoder_layers - 1}."
    return {name: value.detach() for name, value in model.named_parameters() if name.startswith(prefix)}


def answer_losses(model: Transformer, weights: dict[str, Tensor], examples: Sequence[Example]) -> Tensor:
    """-log p(answer | prompt) of each example, in nats, (B,), with `weights` in place of the model's own."""
    rows = [prompt + answer for prompt, answer in examples]
    ids_BT, _ = pad_rows(rows, len(rows), max(map(len, rows)), 0)
    ids_BT = ids_BT.to(model.embedding.tokens.weight.device)
    asked_BT = torch.zeros(ids_BT.shape, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(examples):
        asked_BT[row, len(prompt) : len(prompt) + len(answer)] = True
    logits_BTV = functional_call(model, weights, (ids_BT[:, :-1],))
    nats_BT = -logits_BTV.log_softmax(dim=-1).gather(2, ids_BT[:, 1:, None])[..., 0]
    return (nats_BT * asked_BT[:, 1:].to(nats_BT.device)).sum(dim=1)


def mean_gradient(model: Transformer, examples: Sequence[Example]) -> dict[str, Tensor]:
    """The gradient of the examples' mean loss by the last block's weights."""
    weights = {name: value.requires_grad_() for name, value in last_block(model).items()}
    total = {name: torch.zeros_like(value) for name, value in weights.items()}
    for first in range(0, len(examples), ROWS):
        loss = answer_losses(model, weights, examples[first : first + ROWS]).sum() / len(examples)
        for name, gradient in zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True):
            total[name] += gradient
    return total


def gradient_products(model: Transformer, pool: Sequence[Example], validation: Sequence[Example]) -> np.ndarray:
    """The product of each pool example's gradient with the mean one of validation, float32 (N,).

    Above 0: a small step down this example's own loss lowers the loss on validation as well.
    """
    direction, weights = mean_gradient(model, validation), last_block(model)
    found = []
    with sdpa_kernel(SDPBackend.MATH):  # a GPU's fused attention has no derivative forward
        for first in range(0, len(pool), ROWS):
            some = pool[first : first + ROWS]
            along = jvp(lambda changed, some=some: answer_losses(model, changed, some), (weights,), (direction,))
            found.append(along[1].detach())
    return torch.cat(found).cpu().numpy()
