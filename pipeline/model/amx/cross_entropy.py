"""The cross-entropy of a language model's head and its gradients as one operation, whose logits stay in the cache.

With logits z = W x + b, the label y and p = softmax(z) of a state x:

    nats = log sum exp(z) - z[y]        dx = p W - W[y]        dW = p x^T, less x in row y

Logits, and powers exp(z - max z) before they are divided by their sum, are rounded to bfloat16; so is x divided by the
sum. Sums are float32. Each value is one thread's, so the bits do not follow the number of threads.

Legend: N targets, D hidden size, V vocabulary.
"""

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.model.amx.library import SIZE_STEP, address, library


class CrossEntropy(NamedTuple):
    """All of it float32.

    Attributes:
        nats_N: 0 where there is no target.
        dx_ND, dweight_VD, dbias_V: the gradients of their sum; dbias_V is None without a bias.
    """

    nats_N: Tensor
    dx_ND: Tensor
    dweight_VD: Tensor
    dbias_V: Tensor | None


def cross_entropy_by_amx(x_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, labels_N: Tensor) -> CrossEntropy:
    """The cross-entropy of each label in nats, and its gradients.

    Args:
        x_ND: bfloat16.
        weight_VD, bias_V: float32.
        labels_N: int64; negative where there is no target.

    Raises:
        IndexError: a label is not in the vocabulary.
    """
    x_ND, labels_N = x_ND.contiguous(), labels_N.contiguous()
    if len(labels_N) and int(labels_N.max()) >= len(weight_VD):
        raise IndexError(f"label {int(labels_N.max())} of a vocabulary of {len(weight_VD)}")
    new = x_ND.new_empty
    found = CrossEntropy(
        new(len(x_ND), dtype=torch.float32),
        new(x_ND.shape, dtype=torch.float32),
        torch.empty_like(weight_VD),
        None if bias_V is None else torch.empty_like(bias_V),
    )
    sizes = (*x_ND.shape, len(weight_VD), torch.get_num_threads())
    tensors = (x_ND, weight_VD, bias_V, labels_N, *found)
    call = _Call(*sizes, *map(address, tensors))
    library("cross_entropy").cross_entropy_with_gradients(ctypes.byref(call))
    return found


def can_predict(x_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None) -> bool:
    """Whether `cross_entropy_by_amx` may be asked."""
    floats = {weight_VD.dtype} if bias_V is None else {weight_VD.dtype, bias_V.dtype}
    fits = x_ND.dtype == torch.bfloat16 and x_ND.size(1) % SIZE_STEP == 0
    return fits and floats == {torch.float32} and weight_VD.is_contiguous()


class _Call(ctypes.Structure):
    """`Call` of the C++ file."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("targets", "size", "vocabulary", "threads")),
        *((name, ctypes.c_void_p) for name in ("x", "weight", "bias", "labels", "nats", "dx", "dweight", "dbias")),
    ]
