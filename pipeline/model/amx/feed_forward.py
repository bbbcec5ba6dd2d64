"""A feed-forward part and its gradient as one operation each, whose inner values stay in the processor's cache.

With U = X up^T + b and G = X gate^T + c, the values are V = act(G) * U, or act(U) without a gate, and Y = V down^T + d.
What stays for the backward pass is U and G, rounded to bfloat16. With dY the gradient of Y:

    dV = dY down        dG = dV * U * act'(G)        dU = dV * act(G)        dX = dG gate + dU up
    d(down) = dY^T V    d(gate) = dG^T X             d(up) = dU^T X

Products and sums are float32; V, dG, dU and the weights are rounded to bfloat16 for the products. Each value is one
thread's, so the bits do not follow the number of threads.

Legend: N tokens, D hidden size, F intermediate size.
"""

import ctypes
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.model.amx.library import SIZE_STEP, address, define, library, operations
from pipeline.model.amx.linear import learns_by_amx

ACTIVATIONS = ("relu", "relu2", "gelu", "gelu_tanh", "silu")  # as `Activation` of the C++ file


def feed_forward_by_amx(x: Tensor, up: nn.Linear, gate: nn.Linear | None, down: nn.Linear, activation: str) -> Tensor:
    """down(activation(gate(x)) * up(x)), or down(activation(up(x))), (..., D), of x in bfloat16 and float32 layers."""
    of_gate = (None, None) if gate is None else (gate.weight, gate.bias)
    layers = (up.weight, up.bias, *of_gate, down.weight, down.bias)
    y_ND, _ = torch.ops.hallmark.feed_forward(x.flatten(0, -2), *layers, ACTIVATIONS.index(activation))
    return y_ND.view(x.shape)


def can_feed_forward(x: Tensor, up: nn.Linear, gate: nn.Linear | None, down: nn.Linear) -> bool:
    """Whether `feed_forward_by_amx` may be asked: all of these learn."""
    layers = (up, down) if gate is None else (up, gate, down)
    return x.dtype == torch.bfloat16 and all(learns_by_amx(layer) for layer in layers)


class _Layer(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("weight", "bias", "dweight", "dbias")]


class _Call(ctypes.Structure):
    """`Call` of the C++ file."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("tokens", "size", "inner", "threads")),
        *((name, _Layer) for name in ("up", "gate", "down")),
        *((name, ctypes.c_void_p) for name in ("x", "kept_up", "kept_gate", "y", "dy", "dx")),
    ]


def _loops(gated: bool, activation: int) -> Any:
    return library("feed_forward", GATED=int(gated), ACTIVATION=activation)


def _sizes(x_ND: Tensor, up: Tensor) -> tuple[int, ...]:
    return *x_ND.shape, len(up), torch.get_num_threads()


def _forward(x_ND: Tensor, *layers: Any) -> tuple[Tensor, Tensor]:
    x_ND, (*parts, activation) = x_ND.contiguous(), layers
    up, gate, down = (_Layer(address(parts[i]), address(parts[i + 1])) for i in (0, 2, 4))
    y_ND, kept = _forward_shapes(x_ND, *layers)
    call = _Call(
        *_sizes(x_ND, parts[0]), up, gate, down, address(x_ND), address(kept[0]), address(kept[-1]), address(y_ND)
    )
    _loops(parts[2] is not None, activation).feed_forward(ctypes.byref(call))
    return y_ND, kept


def _backward(dy_ND: Tensor, x_ND: Tensor, *layers: Any) -> tuple[Tensor, ...]:
    dy_ND, x_ND, (*parts, kept, activation) = dy_ND.contiguous(), x_ND.contiguous(), layers
    dx_ND, *gradients = found = _backward_shapes(dy_ND, x_ND, *layers)
    at = [None if part is None else address(gradient) for part, gradient in zip(parts, gradients, strict=True)]
    up, gate, down = (_Layer(address(parts[i]), address(parts[i + 1]), at[i], at[i + 1]) for i in (0, 2, 4))
    tensors = (x_ND, kept[0], kept[-1], None, dy_ND, dx_ND)
    call = _Call(*_sizes(x_ND, parts[0]), up, gate, down, *map(address, tensors))
    _loops(parts[2] is not None, activation).feed_forward_backward(ctypes.byref(call))
    return found


def _forward_shapes(x_ND: Tensor, up: Tensor, _: Any, gate: Tensor | None, *__: Any) -> tuple[Tensor, Tensor]:
    padded = (x_ND.size(0) + SIZE_STEP - 1) // SIZE_STEP * SIZE_STEP
    kept = x_ND.new_empty(1 if gate is None else 2, up.size(0) // SIZE_STEP, padded, SIZE_STEP)
    return x_ND.new_empty(x_ND.shape), kept


def _backward_shapes(dy_ND: Tensor, x_ND: Tensor, *layers: Any) -> tuple[Tensor, ...]:
    *parts, _, _ = layers
    gradients = (x_ND.new_empty(0 if part is None else part.shape, dtype=torch.float32) for part in parts)
    return x_ND.new_empty(x_ND.shape), *gradients


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *read, ctx.activation = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*read, output[1])


def _differentiate(ctx: Any, dy_ND: Tensor, _: None) -> tuple[Tensor | None, ...]:
    x_ND, *parts, kept = ctx.saved_tensors
    dx_ND, *gradients = torch.ops.hallmark.feed_forward_backward(dy_ND, x_ND, *parts, kept, ctx.activation)
    learned = (None if part is None else gradient for part, gradient in zip(parts, gradients, strict=True))
    return dx_ND, *learned, None


_READ = "Tensor x, Tensor up, Tensor? up_bias, Tensor? gate, Tensor? gate_bias, Tensor down, Tensor? down_bias"
define(f"feed_forward({_READ}, int activation) -> (Tensor, Tensor)", _forward, _forward_shapes)
define(
    f"feed_forward_backward(Tensor dy, {_READ}, Tensor kept, int activation)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    _backward,
    _backward_shapes,
)
torch.library.register_autograd("hallmark::feed_forward", _differentiate, setup_context=_keep, lib=operations)
