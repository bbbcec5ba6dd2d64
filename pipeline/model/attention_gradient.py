"""Attention with its gradient written out, for training that is compiled for a CPU.

As in FlashAttention-2 (Dao 2023, arXiv:2307.08691), weights are divided by their sums after the product with V. With
E = exp(S - max S) as rounded for the product, L its sum over the keys, and dY the gradient of Y = E V / L:

    dV = E^T (dY / L)      dS = E * ((dY / L) V^T - sum over K of (dY / L) * Y)

so that the backward pass reads E once, and takes no exponential and no sum over keys.

Legend: B batch, T query positions, S key positions, H heads, K head dimension; N = B H matrices.
"""

from typing import Any

import torch
from torch import Tensor, bmm
from torch.autograd.function import once_differentiable

from pipeline.model.norms import widen


def attend_with_gradient(q_BHTK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """softmax(scale Q K^T + bias) V, (B, H, T, K), as `pipeline.model.attention.attend`.

    Args:
        q_BHTK, k_BHSK, v_BHSK: of one dtype.
        bias: broadcasts to (B, H, T, S), see `Sight`; its gradient is made if it asks for one.
        scale: of the scores.
    """
    return _Attention.apply(q_BHTK, k_BHSK, v_BHSK, bias, scale)[0]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        q_BHTK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, bias: Tensor | None, scale: float
    ) -> tuple[Tensor, ...]:
        """y_BHTK; then what the gradient reads: q, k and v head by head, the powers, the inverse sums (B, H, T, 1)."""
        heads = q_BHTK.size(1)
        q_NTK, k_NSK, v_NSK = _join(q_BHTK), _join(k_BHSK), _join(v_BHSK)
        scores_BHTS = widen(_part(bmm(q_NTK, k_NSK.mT), heads)) * scale
        if bias is not None:
            scores_BHTS = scores_BHTS + bias
        powers_BHTS = (scores_BHTS - scores_BHTS.amax(dim=-1, keepdim=True)).exp().to(v_NSK.dtype)
        share_BHT1 = 1 / widen(powers_BHTS).sum(dim=-1, keepdim=True)
        y_BHTK = widen(_part(bmm(_join(powers_BHTS), v_NSK), heads)) * share_BHT1
        y_BTHK = y_BHTK.to(v_NSK.dtype).transpose(1, 2).contiguous()  # as the next product reads it
        return y_BTHK.transpose(1, 2), q_NTK, k_NSK, v_NSK, powers_BHTS, share_BHT1

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *_, bias, ctx.scale = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(bias, *output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BHTK: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        bias, y_BHTK, q_NTK, k_NSK, v_NSK, powers_BHTS, share_BHT1 = ctx.saved_tensors
        heads = y_BHTK.size(1)
        shared_BHTK = widen(dy_BHTK) * share_BHT1
        mean_BHT1 = (shared_BHTK * widen(y_BHTK)).sum(dim=-1, keepdim=True)
        shared_NTK = _join(shared_BHTK.to(v_NSK.dtype))
        dpowers_BHTS = widen(_part(bmm(shared_NTK, v_NSK.mT), heads))
        dscores_BHTS = widen(powers_BHTS) * (dpowers_BHTS - mean_BHT1)
        dbias = dscores_BHTS.sum_to_size(bias.shape) if ctx.needs_input_grad[3] else None
        dscores_NTS = _join((dscores_BHTS * ctx.scale).to(q_NTK.dtype))
        dq_NTK, dk_NSK = bmm(dscores_NTS, k_NSK), bmm(dscores_NTS.mT, q_NTK)
        dv_NSK = bmm(_join(powers_BHTS).mT, shared_NTK)
        return _part(dq_NTK, heads), _part(dk_NSK, heads), _part(dv_NSK, heads), dbias, None


def _join(x_BHTK: Tensor) -> Tensor:
    """One matrix behind the other: of products with matrices that lie apart, or across, torch makes copies first."""
    return x_BHTK.contiguous().flatten(0, 1)


def _part(x_NTK: Tensor, heads: int) -> Tensor:
    """(N, ...) to (B, H, ...), without a copy."""
    return x_NTK.unflatten(0, (-1, heads))
