"""Attention with its gradient written out, for training that is compiled for a CPU.

As in FlashAttention-2 (Dao 2023, arXiv:2307.08691), weights are divided by their sums after the product with V. With
E = exp(S - max S) as rounded for the product, L its sum over the keys, and dY the gradient of Y = E V / L:

    dV = E^T (dY / L)      dS = E * ((dY / L) V^T - sum over K of (dY / L) * Y)

so that the backward pass reads E once, and takes no exponential and no sum over keys. By causal attention the earlier
half of the queries sees nothing of the later half of the keys, which are left out: a quarter of all scores.

Legend: B batch, T query positions, S key positions, H heads, K head dimension; Q and R the queries and keys of a part.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline.model.norms import widen

HALVES_PAY_FROM = 128  # queries


class Part(NamedTuple):
    """Queries `begin` to `end`, which see no key from `keys` on."""

    begin: int
    end: int
    keys: int


def attend_with_gradient(
    q_BHTK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, bias: Tensor | None, scale: float, *, past_only: bool = False
) -> Tensor:
    """softmax(scale Q K^T + bias) V, (B, H, T, K), as `pipeline.model.attention.attend`.

    Args:
        q_BHTK, k_BHSK, v_BHSK: of one dtype.
        bias: broadcasts to (B, H, T, S), see `Sight`; its gradient is made if it asks for one.
        scale: of the scores.
        past_only: the bias is (B or 1, H or 1, T, T) and hides every later position.
    """
    queries, keys = q_BHTK.size(2), k_BHSK.size(2)
    parts = [Part(0, queries, keys)]
    learned = bias is not None and bias.requires_grad
    if past_only and not learned and queries % 2 == 0 and queries >= HALVES_PAY_FROM:
        parts = [Part(0, queries // 2, queries // 2), Part(queries // 2, queries, keys)]
    return _Attention.apply(q_BHTK, k_BHSK, v_BHSK, bias, scale, parts)[0]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        q_BHTK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, bias: Tensor | None, scale: float, parts: list[Part]
    ) -> tuple[Tensor, ...]:
        """y_BHTK, then the powers (B, H, Q, R) of each part, then the inverse sums (B, H, Q, 1) of each."""
        answers, all_powers, all_shares = [], [], []
        for begin, end, keys in parts:
            scores_BHQR = widen(q_BHTK[:, :, begin:end] @ k_BHSK[:, :, :keys].mT) * scale
            if bias is not None:
                scores_BHQR = scores_BHQR + (bias if len(parts) == 1 else bias[:, :, begin:end, :keys])
            powers_BHQR = (scores_BHQR - scores_BHQR.amax(dim=-1, keepdim=True)).exp().to(v_BHSK.dtype)
            share_BHQ1 = 1 / widen(powers_BHQR).sum(dim=-1, keepdim=True)
            y_BHQK = (widen(powers_BHQR @ v_BHSK[:, :, :keys]) * share_BHQ1).to(v_BHSK.dtype)
            answers.append(y_BHQK.transpose(1, 2))  # joined as the next product reads them
            all_powers.append(powers_BHQR)
            all_shares.append(share_BHQ1)
        return torch.cat(answers, dim=1).transpose(1, 2), *all_powers, *all_shares

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.scale, ctx.parts = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.save_for_backward(*tensors, *output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_BHTK: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q_BHTK, k_BHSK, v_BHSK, bias, y_BHTK, *kept = ctx.saved_tensors
        count = len(ctx.parts)
        dq, dk, dv, dbias = [], [], [], None
        for (begin, end, keys), powers_BHQR, share_BHQ1 in zip(ctx.parts, kept[:count], kept[count:], strict=True):
            wide_BHQK = widen(dy_BHTK[:, :, begin:end]) * share_BHQ1
            mean_BHQ1 = (wide_BHQK * widen(y_BHTK[:, :, begin:end])).sum(dim=-1, keepdim=True)
            shared_BHQK = wide_BHQK.to(v_BHSK.dtype)
            dv.append(powers_BHQR.mT @ shared_BHQK)
            dpowers_BHQR = widen(shared_BHQK @ v_BHSK[:, :, :keys].mT)
            dscores_BHQR = widen(powers_BHQR) * (dpowers_BHQR - mean_BHQ1)
            if ctx.needs_input_grad[3]:  # of one part
                dbias = dscores_BHQR.sum_to_size(bias.shape)
            dscores_BHQR = (dscores_BHQR * ctx.scale).to(q_BHTK.dtype)
            dq.append(dscores_BHQR @ k_BHSK[:, :, :keys])
            dk.append(dscores_BHQR.mT @ q_BHTK[:, :, begin:end])
        return torch.cat(dq, dim=2), _sum_of_parts(dk), _sum_of_parts(dv), dbias, None, None


def _sum_of_parts(parts_BHRK: list[Tensor]) -> Tensor:
    """The gradient of all keys, of parts that begin at the first key; the last part has all."""
    total_BHRK = parts_BHRK[0]
    for part_BHRK in parts_BHRK[1:]:
        keys = total_BHRK.size(2)
        total_BHRK = torch.cat((total_BHRK + part_BHRK[:, :, :keys], part_BHRK[:, :, keys:]), dim=2)
    return total_BHRK
