"""The feed-forward part by AMX instructions, against its formulas in float64. Legend: see the module."""

from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, relu, silu

from pipeline.model.amx.feed_forward import ACTIVATIONS, can_feed_forward, feed_forward_by_amx
from pipeline.model.feed_forward import FEED_FORWARDS

pytestmark = pytest.mark.usefixtures("amx")

ROUNDED = 2**-6  # bfloat16's rounding of what inner layers say, of values and of gradients

WRITTEN_OUT = {
    "relu": relu,
    "relu2": lambda x: relu(x).square(),
    "gelu": gelu,
    "gelu_tanh": lambda x: gelu(x, approximate="tanh"),
    "silu": silu,
}


class Layers(NamedTuple):
    up: nn.Linear
    gate: nn.Linear | None
    down: nn.Linear

    def learned(self) -> list[Tensor]:
        return [parameter for layer in self if layer is not None for parameter in layer.parameters()]


def make_layers(size: int, inner: int, gated: bool, bias: bool) -> Layers:
    torch.manual_seed(0)
    up, gate, down = (nn.Linear(*sizes, bias=bias) for sizes in ((size, inner), (size, inner), (inner, size)))
    return Layers(up, gate if gated else None, down)


def by_amx(x: Tensor, layers: Layers, activation: str, dy: Tensor) -> tuple[Tensor, ...]:
    y = feed_forward_by_amx(x, *layers, activation)
    return y, *torch.autograd.grad(y, [x, *layers.learned()], dy)


def written_out(x: Tensor, layers: Layers, activation: str, dy: Tensor) -> tuple[Tensor, ...]:
    def say(layer: nn.Linear, values: Tensor) -> Tensor:
        return linear(values, layer.weight.double(), None if layer.bias is None else layer.bias.double())

    act = WRITTEN_OUT[activation]
    up = say(layers.up, x.double())
    y = say(layers.down, act(up) if layers.gate is None else act(say(layers.gate, x.double())) * up)
    return y, *torch.autograd.grad(y, [x, *layers.learned()], dy.double())


def assert_right(x: Tensor, layers: Layers, activation: str) -> None:
    dy = torch.randn(x.shape).bfloat16()
    found, exact = by_amx(x, layers, activation, dy), written_out(x, layers, activation, dy)
    for ours, truth in zip(found, exact, strict=True):
        assert (ours.double() - truth).norm() <= ROUNDED * truth.norm()


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_of_any_activation(activation: str, gated: bool) -> None:
    layers = make_layers(64, 160, gated, bias=True)
    x = torch.randn(2, 300, 64).bfloat16()
    if activation == "relu":  # whose slope is 0 or 1: none may be so near to 0 that rounding decides
        x = x[:, :1].expand(x.shape).contiguous()
        said = [linear(x[:, 0].float(), layer.weight, layer.bias) for layer in layers[:2] if layer is not None]
        assert all(each.abs().min() > 1e-4 for each in said)
    assert_right(x.requires_grad_(), layers, activation)


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(1, 700),
    size=st.integers(1, 4),
    inner=st.integers(1, 6),
    gated=st.booleans(),
    bias=st.booleans(),
)
def test_of_any_sizes(count: int, size: int, inner: int, gated: bool, bias: bool) -> None:
    layers = make_layers(32 * size, 32 * inner, gated, bias)
    assert_right(torch.randn(count, 32 * size).bfloat16().requires_grad_(), layers, "silu")


def test_far_from_zero() -> None:
    """Where powers are 0 or infinite."""
    layers = make_layers(32, 32, gated=False, bias=False)
    torch.nn.init.eye_(layers.up.weight)
    for activation in ("gelu", "gelu_tanh", "silu"):
        x = torch.linspace(-150, 150, 3200).view(100, 32).bfloat16().requires_grad_()
        assert_right(x, layers, activation)


@pytest.mark.usefixtures("own_threads")
def test_the_bits_do_not_follow_the_number_of_threads_or_how_far_it_is_padded() -> None:
    layers, x, dy = make_layers(64, 224, gated=True, bias=True), torch.randn(900, 64).bfloat16(), torch.randn(900, 64)
    expected = by_amx(x.requires_grad_(), layers, "silu", dy.bfloat16())
    for threads in (1, 2, 3, 16):
        torch.set_num_threads(threads)
        for one, other in zip(by_amx(x, layers, "silu", dy.bfloat16()), expected, strict=True):
            assert torch.equal(one, other)
    longer = by_amx(
        torch.nn.functional.pad(x.detach(), (0, 0, 0, 50)).requires_grad_(),
        layers,
        "silu",
        torch.nn.functional.pad(dy, (0, 0, 0, 50)).bfloat16(),
    )
    assert torch.equal(longer[0][:900], expected[0])
    assert torch.equal(longer[1][:900], expected[1])


def test_what_is_not_finite_stays_so() -> None:
    """So that a training finds it and skips the step."""
    layers, x = make_layers(32, 64, gated=True, bias=False), torch.randn(70, 32).bfloat16()
    x[40, 3] = torch.nan
    y, dx, *dweights = by_amx(x.requires_grad_(), layers, "silu", torch.randn(70, 32).bfloat16())
    assert y[40].isnan().all()
    assert dx[40].isnan().all()
    assert y[:40].isfinite().all()
    assert all(dweight.isnan().any() for dweight in dweights)


def test_what_cannot_be_asked() -> None:
    x, layers = torch.zeros(4, 32, dtype=torch.bfloat16), make_layers(32, 64, gated=True, bias=True)
    assert can_feed_forward(x, *layers)
    assert not can_feed_forward(x.float(), *layers)
    assert not can_feed_forward(x, *make_layers(32, 70, gated=True, bias=True))
    layers.down.bias.requires_grad_(False)
    assert not can_feed_forward(x, *layers)


def test_every_activation_of_a_feed_forward_has_one() -> None:
    assert {activation.__name__ for activation, _ in FEED_FORWARDS.values()} == set(ACTIVATIONS)
