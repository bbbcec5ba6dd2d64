"""Linear layers by AMX instructions, against their formulas in float64. Legend: see the module."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import linear

from pipeline.model.amx.linear import can_project, linear_by_amx

pytestmark = pytest.mark.usefixtures("amx")

ROUNDED = 2**-8  # bfloat16's rounding of what is said, and of the gradient of x


def make_layers(before: int, after: list[int], bias: bool) -> list[nn.Linear]:
    """Of weights that bfloat16 can hold."""
    torch.manual_seed(0)
    layers = [nn.Linear(before, size, bias=bias) for size in after]
    for layer in layers:
        layer.weight.data.copy_(layer.weight.data.bfloat16())
    return layers


def by_amx(x: Tensor, layers: list[nn.Linear], dys: list[Tensor]) -> tuple[Tensor, ...]:
    """What they say, and the gradients by x, weights and biases."""
    learned = [x, *(parameter for layer in layers for parameter in layer.parameters())]
    said = linear_by_amx(x, layers)
    return *said, *torch.autograd.grad(said, learned, dys)


def written_out(x: Tensor, layers: list[nn.Linear], dys: list[Tensor]) -> tuple[Tensor, ...]:
    learned = [x, *(parameter for layer in layers for parameter in layer.parameters())]
    of_layers = [(layer.weight.double(), None if layer.bias is None else layer.bias.double()) for layer in layers]
    said = [linear(x.double(), *of_layer) for of_layer in of_layers]
    return *said, *torch.autograd.grad(said, learned, [dy.double() for dy in dys])


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(1, 700),
    before=st.integers(1, 4),
    after=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    bias=st.booleans(),
)
def test_of_any_sizes(count: int, before: int, after: list[int], bias: bool) -> None:
    layers = make_layers(32 * before, [32 * size for size in after], bias)
    x = torch.randn(2, count, 32 * before).bfloat16().requires_grad_()
    dys = [torch.randn(2, count, layer.out_features).bfloat16() for layer in layers]
    for found, exact in zip(by_amx(x, layers, dys), written_out(x, layers, dys), strict=True):
        assert found.shape == exact.shape
        assert (found.double() - exact).norm() <= ROUNDED * exact.norm()


def test_gradients_of_weights_are_rounded_only_as_float32() -> None:
    """Both sides of their products are bfloat16 as they come."""
    layers = make_layers(64, [96], bias=True)
    x, dy = torch.randn(3000, 64).bfloat16().requires_grad_(), torch.randn(3000, 96).bfloat16()
    found, exact = by_amx(x, layers, [dy]), written_out(x, layers, [dy])
    for ours, truth in zip(found[2:], exact[2:], strict=True):
        assert ours.dtype == torch.float32
        assert (ours.double() - truth).norm() < 1e-6 * truth.norm()


@pytest.mark.usefixtures("own_threads")
def test_the_bits_do_not_follow_the_number_of_threads() -> None:
    layers = make_layers(96, [64, 32, 160], bias=True)
    x = torch.randn(900, 96).bfloat16().requires_grad_()
    dys = [torch.randn(900, layer.out_features).bfloat16() for layer in layers]
    expected = by_amx(x, layers, dys)
    for threads in (1, 2, 3, 16):
        torch.set_num_threads(threads)
        for one, other in zip(by_amx(x, layers, dys), expected, strict=True):
            assert torch.equal(one, other)


def test_what_cannot_be_asked() -> None:
    x = torch.zeros(4, 32, dtype=torch.bfloat16)
    assert can_project(x, make_layers(32, [32, 64], bias=True))
    assert not can_project(x.float(), make_layers(32, [32], bias=True))
    assert not can_project(x, make_layers(32, [32, 10], bias=True))
    assert not can_project(x, make_layers(32, [32], bias=True) + make_layers(32, [32], bias=False))
    assert not can_project(x, [make_layers(32, [32], bias=True)[0].requires_grad_(False)])
