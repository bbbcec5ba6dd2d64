"""Influence against the gradient of every single example, made one by one."""

import numpy as np
import pytest
import torch

from pipeline.prompting import influence
from pipeline.prompting.influence import Example, answer_losses, gradient_products, last_block
from tests.model.test_parts import preset_model, tiny_model

POOL: list[Example] = [([1, 5, 6], [3]), ([1, 7, 8, 9, 10], [4, 5]), ([1], [30, 31, 32]), ([1, 5, 5, 5], [3])]
VALIDATION: list[Example] = [([1, 5, 7], [3]), ([1, 9], [4, 5]), ([1, 6, 6, 6, 6], [4, 5])]


def plain_loss(model: torch.nn.Module, example: Example) -> torch.Tensor:
    prompt, answer = example
    nats_TV = -model(torch.tensor([prompt + answer]))[0].log_softmax(dim=-1)
    return torch.stack([nats_TV[len(prompt) + place - 1, token] for place, token in enumerate(answer)]).sum()


def plain_gradient(model: torch.nn.Module, example: Example) -> torch.Tensor:
    """Of the last block's weights, as one vector."""
    model.zero_grad()
    plain_loss(model, example).backward()
    chosen = [value for name, value in model.named_parameters() if name.startswith("decoder.blocks.1.")]
    return torch.cat([value.grad.flatten() for value in chosen if value.grad is not None])


@pytest.mark.parametrize("name", ["qwen3", "gpt2", "alibi"])
def test_influences_are_products_of_single_gradients(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(influence, "ROWS", 3)  # several batches
    model = tiny_model(positions="alibi") if name == "alibi" else preset_model(name)
    validation = torch.stack([plain_gradient(model, example) for example in VALIDATION])
    expected = [float((validation @ plain_gradient(model, example)).mean()) for example in POOL]
    found = gradient_products(model, POOL, VALIDATION)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-4 * np.abs(expected).max())


def test_losses_of_a_batch_are_those_of_each_example() -> None:
    model = tiny_model()
    found = answer_losses(model, last_block(model), POOL)
    expected = torch.stack([plain_loss(model, example) for example in POOL])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_step_down_an_influential_examples_loss_lowers_the_loss_on_validation() -> None:
    """What the number stands for: the change of the loss on validation per small step."""
    model, step = tiny_model(), 1e-5
    found = gradient_products(model, POOL, VALIDATION)
    for example, expected in zip(POOL, found, strict=True):
        weights = {name: value.double() for name, value in last_block(model).items()}
        wide = model.double()
        start = {name: value.clone().requires_grad_() for name, value in weights.items()}
        gradients = torch.autograd.grad(answer_losses(wide, start, [example]).sum(), list(start.values()))
        moved = {name: value - step * slope for (name, value), slope in zip(weights.items(), gradients, strict=True)}
        with torch.no_grad():
            before, after = (answer_losses(wide, at, VALIDATION).mean() for at in (weights, moved))
        assert float(before - after) / step == pytest.approx(
            float(expected), rel=0.02, abs=0.02 * float(np.abs(found).max())
        )
