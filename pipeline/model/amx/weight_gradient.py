"""The gradient of a linear layer's weights, dY^T X, added up in float32 and in one order on any number of threads.

Legend: N vectors, D and E their sizes before and after.
"""

import ctypes

import torch
from torch import Tensor

from pipeline.model.amx.library import library

SIZE_STEP = 16  # values of a vector of the processor


def weight_gradient_by_amx(dy_NE: Tensor, x_ND: Tensor) -> Tensor:
    """dY^T X, float32 (E, D), of bfloat16."""
    return torch.ops.hallmark.weight_gradient(dy_NE, x_ND)  # type: ignore[no-any-return]


def can_multiply(dy_NE: Tensor, x_ND: Tensor) -> bool:
    """Whether `weight_gradient_by_amx` may be asked."""
    return x_ND.dtype == torch.bfloat16 and dy_NE.size(1) % SIZE_STEP == 0 and x_ND.size(1) % SIZE_STEP == 0


class _Gradient(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("vectors", "before", "after", "threads")),
        *((name, ctypes.c_void_p) for name in ("x", "dy")),
        *((name, ctypes.c_int64) for name in ("x_stride", "dy_stride")),
        ("dweight", ctypes.c_void_p),
    ]


def _weight_gradient(dy_NE: Tensor, x_ND: Tensor) -> Tensor:
    dy_NE, x_ND = (x if x.stride(1) == 1 else x.contiguous() for x in (dy_NE, x_ND))
    dweight_ED = _shape(dy_NE, x_ND)
    sizes = (*x_ND.shape, dy_NE.size(1), torch.get_num_threads())
    read = (x_ND.data_ptr(), dy_NE.data_ptr(), x_ND.stride(0), dy_NE.stride(0))
    library("weight_gradient").weight_gradient(ctypes.byref(_Gradient(*sizes, *read, dweight_ED.data_ptr())))
    return dweight_ED


def _shape(dy_NE: Tensor, x_ND: Tensor) -> Tensor:
    return x_ND.new_empty(dy_NE.size(1), x_ND.size(1), dtype=torch.float32)


_operations = torch.library.Library("hallmark", "FRAGMENT")
_operations.define("weight_gradient(Tensor dy, Tensor x) -> Tensor")
_operations.impl("weight_gradient", _weight_gradient, "CPU")
torch.library.register_fake("hallmark::weight_gradient", _shape, lib=_operations)
