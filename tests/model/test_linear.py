"""The product with a bias that is written out for compiled training."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from pipeline.model.linear import biased_product


@pytest.mark.parametrize("learning", ["xwb", "xb", "wb", "b", "x"])
def test_it_is_torchs_with_the_gradients_that_are_asked_for(learning: str) -> None:
    torch.manual_seed(0)
    tensors = {"x": torch.randn(2, 3, 5), "w": torch.randn(4, 5), "b": torch.randn(4)}
    inputs = [value.double().requires_grad_(name in learning) for name, value in tensors.items()]
    dy = torch.randn(2, 3, 4, dtype=torch.float64)

    def answer_and_gradients(y: Tensor) -> list[Tensor]:
        return [y, *torch.autograd.grad(y, [each for each in inputs if each.requires_grad], dy)]

    torch.testing.assert_close(answer_and_gradients(biased_product(*inputs)), answer_and_gradients(linear(*inputs)))


def test_under_autocast_gradients_keep_the_type_of_what_they_are_of() -> None:
    x, w, b = torch.randn(6, 16), torch.randn(8, 16), torch.randn(8)
    for each in (x, w, b):
        each.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = biased_product(x, w, b)
    assert y.dtype == torch.bfloat16
    gradients = torch.autograd.grad(y.float().square().sum(), (x, w, b))
    truth = torch.autograd.grad(linear(x, w, b).square().sum(), (x, w, b))
    for found, exact in zip(gradients, truth, strict=True):
        assert found.dtype == torch.float32
        assert (found - exact).norm() < 0.02 * exact.norm()
