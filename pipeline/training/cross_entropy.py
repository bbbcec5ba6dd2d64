"""The cross-entropy of the head's predictions and its gradients, made part by part: one part's logits are all that is
ever held, and on a CPU they stay in its cache.

Loss and gradients of a part come from one pass over its logits, and the backward pass only scales them (as in Liger's
kernels: Hsu et al. 2024, arXiv:2410.10989). For a state x with the label y, and p = softmax(W x + b):

    nats = log sum exp(W x + b) - (W x + b)[y]      dx = p W - W[y]      dW = p x^T, less x in row y

What the label gives is exact. Only p is rounded for the products, before it is divided by its sum.

Legend: N targets, D hidden size, V vocabulary.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from pipeline.model.amx.cross_entropy import can_predict, cross_entropy_by_amx
from pipeline.model.norms import widen
from pipeline.training.loop import steady_sum
from pipeline.training.masking import NO_TARGET

PART = {"cpu": 2048, "cuda": 16_384}  # targets: few fit a CPU's cache, many keep a GPU busy

PartGradients = Callable[[Tensor, Tensor, Tensor | None, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]


def part_gradients(
    x_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    labels_N: Tensor,
    dweight_VD: Tensor,
    dbias_V: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The cross-entropy of each label in nats, float32 (N,), 0 where there is no target, and its gradient by x_ND.

    Args:
        x_ND, weight_VD, bias_V: of the head, in the precision of products.
        labels_N: int64.
        dweight_VD, dbias_V: at least float32; all of the gradients but what labels give is added to them.
    """
    logits_NV = widen(linear(x_ND, weight_VD, bias_V))
    valid_N1, row_N = (labels_N != NO_TARGET)[:, None], labels_N.clamp(min=0)
    top_N1 = logits_NV.amax(dim=1, keepdim=True)
    powers_NV = (logits_NV - top_N1).exp()
    sum_N1 = powers_NV.sum(dim=1, keepdim=True)
    nats_N1 = (sum_N1.log() + top_N1 - logits_NV.gather(1, row_N[:, None])) * valid_N1
    share_N1, powers_NV = valid_N1 / sum_N1, powers_NV.to(x_ND.dtype)
    shared_ND = (x_ND * share_N1).to(x_ND.dtype)
    dweight_VD += powers_NV.T @ shared_ND
    if dbias_V is not None:
        dbias_V += (powers_NV * share_N1).sum(dim=0)
    return nats_N1[:, 0], widen(powers_NV @ weight_VD) * share_N1 - weight_VD[row_N] * valid_N1


def summed_nats(
    x_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    labels_N: Tensor,
    size: int | None = None,
    gradients: PartGradients = part_gradients,
    *,
    by_amx: bool = False,
) -> Tensor:
    """The sum of the cross-entropies of all labels, in nats, at least float32 (); it can be differentiated once.

    Args:
        x_ND: states as the head's matrix reads them.
        weight_VD, bias_V: of the head.
        labels_N: int64; NO_TARGET is no target.
        size: logits of at most so many targets are held; None: PART.
        gradients: `part_gradients`, or that compiled.
        by_amx: all at once by `cross_entropy_by_amx`, if it can be asked.
    """
    size = size or PART[x_ND.device.type]
    return _SummedNats.apply(x_ND, weight_VD, bias_V, labels_N, size, gradients, by_amx)  # type: ignore[no-any-return]


def in_even_parts(tensor: Tensor, size: int) -> tuple[Tensor, ...]:
    """Parts of at most `size` rows, as alike as can be: each length is compiled anew."""
    return tensor.chunk(max(1, -(-len(tensor) // size)))


class _SummedNats(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        x_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        labels_N: Tensor,
        size: int,
        gradients: PartGradients,
        by_amx: bool,
    ) -> Tensor:
        device = x_ND.device.type
        low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_ND.dtype
        low_ND = x_ND.to(low)
        if by_amx and can_predict(low_ND, weight_VD, bias_V):
            nats_N, dx_ND, dweight_VD, dbias_V = cross_entropy_by_amx(low_ND, weight_VD, bias_V, labels_N)
        else:
            low_VD, low_V = weight_VD.to(low), None if bias_V is None else bias_V.to(low)
            dweight_VD, dbias_V = torch.zeros_like(weight_VD), None if bias_V is None else torch.zeros_like(bias_V)
            parts = zip(in_even_parts(low_ND, size), in_even_parts(labels_N, size), strict=True)
            found = [gradients(x, low_VD, low_V, labels, dweight_VD, dbias_V) for x, labels in parts]
            nats_N, dx_ND = torch.cat([nats for nats, _ in found]), torch.cat([dx for _, dx in found])
            valid_N, row_N = labels_N != NO_TARGET, labels_N.clamp(min=0)
            dweight_VD.index_add_(0, row_N, widen(low_ND) * valid_N[:, None], alpha=-1)
            if dbias_V is not None:
                dbias_V.index_add_(0, row_N, valid_N.to(dbias_V.dtype), alpha=-1)
        ctx.save_for_backward(dx_ND.to(x_ND.dtype), dweight_VD, dbias_V)
        return steady_sum(nats_N)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dsum: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        gradients = ctx.saved_tensors
        # A training asks for the sum's own gradient. On a GPU the host would have to wait for the answer.
        if dsum.device.type != "cpu" or float(dsum) != 1.0:
            gradients = tuple(None if gradient is None else gradient * dsum for gradient in gradients)
        return (*gradients, None, None, None, None)
