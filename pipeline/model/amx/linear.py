"""Linear layers that read the same vectors, and their gradients, as one operation each.

Y = X W^T + b of each layer, and with dY the gradient of Y, summed over layers where they share it:

    dX = sum of dY W        dW = dY^T X        db = sum of dY over N

Sums are float32; W is rounded to bfloat16 for the products. Each value is one thread's, so the bits do not follow the
number of threads.

Legend: N vectors, D and E their sizes before and after.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.model.amx.library import SIZE_STEP, address, define, library, operations

MOST_LAYERS = 3


def linear_by_amx(x: Tensor, layers: Sequence[nn.Linear]) -> list[Tensor]:
    """x W^T + b of up to `MOST_LAYERS` layers, (..., E) each, of x (..., D) in bfloat16; all have a bias, or none."""
    biases = [layer.bias for layer in layers if layer.bias is not None]
    found = torch.ops.hallmark.linear(x.flatten(0, -2), [layer.weight for layer in layers], biases)
    return [y_NE.unflatten(0, x.shape[:-1]) for y_NE in found]


def can_project(x: Tensor, layers: Sequence[nn.Linear]) -> bool:
    """Whether `linear_by_amx` may be asked: all of these learn."""
    alike = len({layer.bias is None for layer in layers}) == 1
    return x.dtype == torch.bfloat16 and alike and all(learns_by_amx(layer) for layer in layers)


def learns_by_amx(layer: nn.Linear) -> bool:
    """Whether its sizes, and what of it learns, fit these operations."""

    def fits(parameter: Tensor) -> bool:
        return parameter.requires_grad and parameter.dtype == torch.float32 and parameter.is_contiguous()

    return all(map(fits, layer.parameters())) and all(size % SIZE_STEP == 0 for size in layer.weight.shape)


class _Layer(ctypes.Structure):
    _fields_ = [
        ("size", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "y", "dy", "dweight", "dbias")),
    ]


class _Call(ctypes.Structure):
    """`Call` of the C++ file."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("vectors", "size", "count", "threads")),
        *((name, ctypes.c_void_p) for name in ("x", "dx")),
        ("layers", _Layer * MOST_LAYERS),
    ]


def _call(x_ND: Tensor, dx_ND: Tensor | None, weights: list[Tensor], **tensors: list[Tensor]) -> _Call:
    call = _Call(*x_ND.shape, len(weights), torch.get_num_threads(), x_ND.data_ptr(), address(dx_ND))
    for i, weight in enumerate(weights):
        layer = call.layers[i]
        layer.size, layer.weight = len(weight), weight.data_ptr()
        for name, of_layers in tensors.items():
            if of_layers:
                setattr(layer, name, of_layers[i].data_ptr())
    return call


def _forward(x_ND: Tensor, weights: list[Tensor], biases: list[Tensor]) -> list[Tensor]:
    x_ND = x_ND.contiguous()
    found = _forward_shapes(x_ND, weights, biases)
    library("linear").linear(ctypes.byref(_call(x_ND, None, weights, bias=biases, y=found)))
    return found


def _backward(
    dys: list[Tensor], x_ND: Tensor, weights: list[Tensor], biased: bool
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    x_ND, dys = x_ND.contiguous(), [dy.contiguous() for dy in dys]
    dx_ND, dweights, dbiases = found = _backward_shapes(dys, x_ND, weights, biased)
    call = _call(x_ND, dx_ND, weights, dy=dys, dweight=dweights, dbias=dbiases)
    library("linear").linear_backward(ctypes.byref(call))
    return found


def _forward_shapes(x_ND: Tensor, weights: list[Tensor], _: list[Tensor]) -> list[Tensor]:
    return [x_ND.new_empty(x_ND.size(0), weight.size(0)) for weight in weights]


def _backward_shapes(
    _: list[Tensor], x_ND: Tensor, weights: list[Tensor], biased: bool
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    dweights = [torch.empty_like(weight) for weight in weights]
    dbiases = [weight.new_empty(len(weight)) for weight in weights] if biased else []
    return x_ND.new_empty(x_ND.shape), dweights, dbiases


def _keep(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    x_ND, weights, biases = inputs
    ctx.biased = bool(biases)
    ctx.save_for_backward(x_ND, *weights)


def _differentiate(ctx: Any, dys: list[Tensor]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    x_ND, *weights = ctx.saved_tensors
    return torch.ops.hallmark.linear_backward(dys, x_ND, weights, ctx.biased)  # type: ignore[no-any-return]


define("linear(Tensor x, Tensor[] weights, Tensor[] biases) -> Tensor[]", _forward, _forward_shapes)
define(
    "linear_backward(Tensor[] dys, Tensor x, Tensor[] weights, bool biased) -> (Tensor, Tensor[], Tensor[])",
    _backward,
    _backward_shapes,
)
torch.library.register_autograd("hallmark::linear", _differentiate, setup_context=_keep, lib=operations)
