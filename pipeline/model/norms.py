"""Normalisation over the last dimension, in float32 or wider."""

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm


def widen(x: Tensor) -> Tensor:
    """At least float32: what is summed in bfloat16 is summed wrongly. Float64, the slow truth, stays."""
    return x if x.dtype == torch.float64 else x.float()


class RMSNorm(nn.Module):
    """Root-mean-square layer normalisation (Zhang and Sennrich 2019, arXiv:1910.07467).

    Written out, as below; on a GPU torch's own is one kernel instead of six, and has one order of adding.
    """

    def __init__(self, size: int, eps: float, bias: bool = False) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        wide = widen(x)
        if x.is_cuda:
            return rms_norm(wide, self.weight.shape, self.weight, self.eps).to(x.dtype)
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * scale * self.weight).to(x.dtype)


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al. 2016, arXiv:1607.06450), with a bias or without.

    Written out: torch's own adds up the weight's gradient thread by thread, so that its bits follow their number.
    """

    def __init__(self, size: int, eps: float, bias: bool = False) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        wide = widen(x)
        centred = wide - wide.mean(-1, keepdim=True)
        normed = centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + self.eps) * self.weight
        return (normed if self.bias is None else normed + self.bias).to(x.dtype)


NORMS: dict[str, type[RMSNorm] | type[LayerNorm]] = {"layernorm": LayerNorm, "rmsnorm": RMSNorm}
