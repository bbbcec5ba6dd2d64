"""Activations written out for compiled training, against torch's own in float64."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pipeline.model.activations import Share, gelu, normal_share, sigmoid_share, silu, tanh_share, with_slope

Activation = Callable[[Tensor], Tensor]
CASES = [
    (normal_share, functional.gelu),
    (tanh_share, partial(functional.gelu, approximate="tanh")),
    (sigmoid_share, functional.silu),
]


def value_and_slope(activation: Activation, x: Tensor) -> Tensor:
    """(2, N), float64."""
    x = x.detach().requires_grad_()
    y = activation(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    return torch.stack((y.detach(), slope)).double()


@pytest.mark.parametrize(("share", "torchs"), CASES)
def test_in_float32_they_are_torchs(share: Share, torchs: Activation) -> None:
    """Absolutely near 0, relatively far from it; nothing is lost or infinite at the ends."""
    x = torch.cat((torch.linspace(-12, 12, 20_001), torch.tensor([-1e4, -100.0, -0.0, 100.0, 1e4])))
    truth = value_and_slope(torchs, x.double())
    error = (value_and_slope(lambda x: with_slope(x, share), x) - truth).abs()
    assert (error <= 2.5e-6 * truth.abs().clamp(min=1)).all(), f"{error.max():.1e}"


@pytest.mark.parametrize(("share", "torchs"), CASES)
def test_in_bfloat16_they_are_as_exact_as_torchs(share: Share, torchs: Activation) -> None:
    x = torch.linspace(-6, 6, 20_001).bfloat16()
    truth = value_and_slope(torchs, x.double())
    ours, plain = (value_and_slope(way, x) - truth for way in (lambda x: with_slope(x, share), torchs))
    assert (ours.norm(dim=1) < 1.02 * plain.norm(dim=1)).all()


def test_only_compiled_training_writes_them_out(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.linspace(-3, 3, 1001, requires_grad=True)
    assert torch.equal(gelu(x), functional.gelu(x))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert torch.equal(gelu(x), with_slope(x, normal_share))
    assert torch.equal(silu(x), with_slope(x, sigmoid_share))
    assert torch.equal(gelu(x.double()), functional.gelu(x.double()))
    assert torch.equal(gelu(x.detach()), functional.gelu(x))


def test_the_backward_pass_takes_no_exponential() -> None:
    """In the code that torch makes of it, the slope is kept; it would be made anew if it stood alone."""
    from functorch.compile import aot_function, min_cut_rematerialization_partition, nop

    graphs: list[str] = []

    def write_down(gm: Any, example_inputs: Any) -> Any:
        graphs.append(gm.code)
        return nop(gm, example_inputs)

    def network(x: Tensor, w: Tensor) -> Tensor:
        return with_slope(x @ w, normal_share) @ w

    x, w = torch.randn(2, 8, 8, requires_grad=True).unbind()
    compiled = aot_function(network, write_down, write_down, min_cut_rematerialization_partition)
    compiled(x, w).sum().backward()
    forward, backward = graphs
    assert "exp2" in forward
    assert "exp2" not in backward
