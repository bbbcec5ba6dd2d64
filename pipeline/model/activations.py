"""Activations that are x times a share of it, written out for training that is compiled for a CPU.

    gelu        x Phi(x), Phi the normal distribution's (Hendrycks and Gimpel 2016, arXiv:1606.08415)
    gelu_tanh   x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3): their approximation 0.5 x (1 + tanh u)
    silu        x sigmoid(x)

One exponential gives the value and the slope, and the backward pass only multiplies by the slope. torch's own take the
error function, tanh or an exponential once for the value and again for the gradient; they are used everywhere else.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from pipeline.model.norms import widen

Share = Callable[[Tensor], tuple[Tensor, Tensor]]  # x to a share and the slope, d(share x) / dx

LOG2_E = math.log2(math.e)


def gelu(x: Tensor) -> Tensor:
    return with_slope(x, normal_share) if _is_written_out(x) else functional.gelu(x)


def gelu_tanh(x: Tensor) -> Tensor:
    return with_slope(x, tanh_share) if _is_written_out(x) else functional.gelu(x, approximate="tanh")


def silu(x: Tensor) -> Tensor:
    return with_slope(x, sigmoid_share) if _is_written_out(x) else functional.silu(x)


def _is_written_out(x: Tensor) -> bool:
    return torch.compiler.is_compiling() and x.requires_grad and x.device.type == "cpu" and x.dtype != torch.float64


def with_slope(x: Tensor, share: Share) -> Tensor:
    """`share` of x, times x; computed in float32, kept in x's dtype."""
    return _WithSlope.apply(x, share)[0]


class _WithSlope(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, share: Share) -> tuple[Tensor, ...]:  # type: ignore[override]
        wide = widen(x)
        part, slope = share(wide)
        # In one tensor: torch would drop a slope of its own, and make it anew from x in the backward pass.
        return torch.stack(((wide * part).to(x.dtype), slope.to(x.dtype))).unbind()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, _: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (slope,) = ctx.saved_tensors
        return (widen(dy) * widen(slope)).to(dy.dtype), None


# Abramowitz and Stegun 1964, 7.1.26: erfc(z) = t (a1 + t (a2 + ...)) exp(-z^2), t = 1 / (1 + p z), within 1.5e-7.
ERFC_P = 0.3275911
ERFC_A = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def normal_share(x: Tensor) -> tuple[Tensor, Tensor]:
    """Phi(x) within 1e-7, and Phi(x) + x phi(x); phi is the normal density."""
    power = torch.exp2(x * x * (-0.5 * LOG2_E))
    t = 1 / (1 + (ERFC_P / math.sqrt(2)) * x.abs())
    tail = ERFC_A[-1] * t
    for a in reversed(ERFC_A[:-1]):
        tail = (tail + a) * t
    tail = 0.5 * tail * power
    share = torch.where(x < 0, tail, 1 - tail)
    return share, share + x * power * (1 / math.sqrt(2 * math.pi))


def tanh_share(x: Tensor) -> tuple[Tensor, Tensor]:
    """sigmoid(2 u), and its slope by the chain rule."""
    square = x * x
    share = _sigmoid(math.sqrt(8 / math.pi) * x * (1 + 0.044715 * square))
    return share, share * (1 + x * (1 - share) * (math.sqrt(8 / math.pi) * (1 + 3 * 0.044715 * square)))


def sigmoid_share(x: Tensor) -> tuple[Tensor, Tensor]:
    share = _sigmoid(x)
    return share, share * (1 + x * (1 - share))


def _sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp2(x * -LOG2_E))
