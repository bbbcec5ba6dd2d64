"""Continuing a text."""

import torch

from pipeline.common.errors import HallmarkError
from pipeline.model.transformer import Transformer


@torch.inference_mode()
def generate(
    model: Transformer,
    prompt_ids: list[int],
    *,
    max_new_tokens: int,
    temperature: float = 0.8,
    top_k: int = 50,
    seed: int = 0,
) -> list[int]:
    """Sample a continuation; the same seed gives the same tokens.

    Args:
        model: a decoder in eval mode.
        prompt_ids: at least one token id (a document starts with the tokenizer's `bos_id`).
        max_new_tokens: how many tokens to add.
        temperature: divides the logits; 0 takes the likeliest token each time.
        top_k: samples among this many likeliest tokens.
        seed: seeds the draw.

    Returns:
        The new token ids only.
    """
    if not prompt_ids:
        raise HallmarkError("an empty prompt has nothing to continue", fix="start with the tokenizer's bos_id")
    device = model.embedding.tokens.weight.device
    generator = torch.Generator().manual_seed(seed)
    ids = list(prompt_ids)
    for _ in range(max_new_tokens):
        window_BT = torch.tensor([ids[-model.config.context_length :]], device=device)
        logits_V = model.logits(model.hidden_states(window_BT)[0, -1]).float().cpu()
        ids.append(choose(logits_V, temperature, top_k, generator))
    return ids[len(prompt_ids) :]


def choose(logits_V: torch.Tensor, temperature: float, top_k: int, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits_V.argmax())
    top = logits_V.topk(min(top_k, logits_V.numel()))
    weights = (top.values / temperature).softmax(dim=-1)
    return int(top.indices[torch.multinomial(weights, 1, generator=generator)])
