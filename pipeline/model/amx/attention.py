"""Attention and its gradient as one operation each, with the norms and rotary positions of queries and keys.

As in FlashAttention-2 (Dao 2023, arXiv:2307.08691) no weights are written to memory: with Q and K made ready, S =
scale Q K^T + bias, W its softmax over the keys and Y = W V, what stays is the largest score of each query and the sum
of its powers, and the backward pass makes Q, K and W anew. With dY the gradient of Y:

    dV = W^T dY      dS = W * (dY V^T - sum over K of dY * Y)      dQ = scale dS K      dK = scale dS^T Q

Scores, sums and gradients are float32; Q, K, W and dS are rounded to bfloat16 for the products. Keys that no query of a
block of 64 sees are left out. A head of keys is one thread's, so the bits do not follow the number of threads.

Legend: B rows, T query positions, S key positions, H heads, G heads of keys and values, K head dimension.
"""

import ctypes
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.model.amx.library import SIZE_STEP, address, define, library, operations

MOST_HEAD_DIM = 256  # a vector must fit the registers


class Recipe(NamedTuple):
    """What queries or keys are made ready by: an RMS norm over K, then rotary positions.

    Attributes:
        weight_K: of the norm, float32; None: no norm.
        cos, sin: (B or 1, 1, T or S, K), float32, see `rotary_tables`; None: nothing is turned.
    """

    weight_K: Tensor | None = None
    cos: Tensor | None = None
    sin: Tensor | None = None


AS_THEY_ARE = Recipe()


def attend_by_amx(
    q_BHTK: Tensor,
    k_BGSK: Tensor,
    v_BGSK: Tensor,
    bias: Tensor | None,
    scale: float,
    of_q: Recipe = AS_THEY_ARE,
    of_k: Recipe = AS_THEY_ARE,
    eps: float = 0.0,
) -> Tensor:
    """softmax(scale Q K^T + bias) V, (B, H, T, K), as `pipeline.model.attention.attend`, of Q and K made ready.

    Args:
        q_BHTK, k_BGSK, v_BGSK: bfloat16; K is a multiple of 32, up to 256.
        bias: broadcasts to (B, H, T, S), see `Sight`; it gets no gradient.
        scale: of the scores.
        of_q, of_k: what queries and keys are made ready by.
        eps: of the norms.
    """
    y_BTHK, _ = torch.ops.hallmark.attend(q_BHTK, k_BGSK, v_BGSK, bias, *of_q, *of_k, scale, eps)
    return y_BTHK.transpose(1, 2)


def can_attend(q_BHTK: Tensor, bias: Tensor | None) -> bool:
    """Whether `attend_by_amx` may be asked."""
    head_dim = q_BHTK.size(-1)
    fits = q_BHTK.dtype == torch.bfloat16 and head_dim % SIZE_STEP == 0 and head_dim <= MOST_HEAD_DIM
    return fits and (bias is None or not bias.requires_grad)


class _Heads(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("row", "head", "place"))]


class _Recipe(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weight", "dweight", "cos", "sin")),
        *((name, ctypes.c_int64) for name in ("row", "place")),
    ]


class _Call(ctypes.Structure):
    """`Call` of the C++ file; a bias has the fields of heads."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("rows", "heads", "key_heads", "queries", "keys", "threads")),
        *((name, ctypes.c_double) for name in ("scale", "eps")),
        *((name, _Heads) for name in ("q", "k", "v", "y", "bias")),
        *((name, _Recipe) for name in ("of_q", "of_k")),
        ("sums", ctypes.c_void_p),
        *((name, _Heads) for name in ("dy", "dq", "dk", "dv")),
    ]


class _Inputs(NamedTuple):
    """What both passes read, as the loops read it: values side by side, and stride 0 where all are alike."""

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None
    of_q: Recipe
    of_k: Recipe

    def call(self, y: Tensor, sums: Tensor, scale: float, eps: float) -> _Call:
        rows, heads, queries, _ = self.q.shape
        sizes = (rows, heads, self.k.size(1), queries, self.k.size(2), torch.get_num_threads())
        seen = _Heads() if self.bias is None else _heads(self.bias)
        read = (_heads(self.q), _heads(self.k), _heads(self.v), _heads(y), seen, _recipe(self.of_q), _recipe(self.of_k))
        return _Call(*sizes, scale, eps, *read, sums.data_ptr())


def _loops(q_BHTK: Tensor) -> Any:
    return library("attention", HEAD_DIM=q_BHTK.size(-1))


def _read(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *recipes: Tensor | None) -> _Inputs:
    if bias is not None:
        bias = _side_by_side(bias.float().expand(*q.shape[:3], k.size(2)))
    weight_q, cos_q, sin_q, weight_k, cos_k, sin_k = recipes
    of_q, of_k = Recipe(weight_q, *_tables(cos_q, sin_q, q)), Recipe(weight_k, *_tables(cos_k, sin_k, k))
    return _Inputs(_side_by_side(q), _side_by_side(k), _side_by_side(v), bias, of_q, of_k)


def _tables(cos: Tensor | None, sin: Tensor | None, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Both with the same strides."""
    if cos is None or sin is None:
        return None, None
    shape = (x.size(0), 1, *x.shape[2:])
    cos, sin = _side_by_side(cos.expand(shape)), _side_by_side(sin.expand(shape))
    return (cos, sin) if cos.stride() == sin.stride() else (cos.contiguous(), sin.contiguous())


def _side_by_side(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _heads(x: Tensor) -> _Heads:
    row, head, place, _ = x.stride()
    return _Heads(x.data_ptr(), row, head, place)


def _recipe(recipe: Recipe, dweight: Tensor | None = None) -> _Recipe:
    weight, cos, sin = map(address, recipe)
    row, _, place, _ = (0, 0, 0, 0) if recipe.cos is None else recipe.cos.stride()
    return _Recipe(weight, address(dweight), cos, sin, row, place)


def _empty_heads(like_BHTK: Tensor) -> Tensor:
    """(B, H, T, K), in memory as (B, T, H, K), as linear layers read and write heads."""
    rows, heads, places, size = like_BHTK.shape
    return like_BHTK.new_empty(rows, places, heads, size).transpose(1, 2)


def _forward(q: Tensor, k: Tensor, v: Tensor, *more: Any) -> tuple[Tensor, Tensor]:
    *read, scale, eps = more
    inputs = _read(q, k, v, *read)
    y, sums = _forward_shapes(q, k, v)
    _loops(q).attend_forward(ctypes.byref(inputs.call(y.transpose(1, 2), sums, scale, eps)))
    return y, sums


def _backward(dy: Tensor, q: Tensor, k: Tensor, v: Tensor, *more: Any) -> tuple[Tensor, ...]:
    *read, y, sums, scale, eps = more
    inputs, dy = _read(q, k, v, *read), _side_by_side(dy)
    call = inputs.call(y.transpose(1, 2), sums, scale, eps)
    dq, dk, dv, dq_norm, dk_norm = _backward_shapes(dy, q, k, v)
    call.of_q, call.of_k = _recipe(inputs.of_q, dq_norm), _recipe(inputs.of_k, dk_norm)
    call.dy, call.dq, call.dk, call.dv = _heads(dy), _heads(dq), _heads(dk), _heads(dv)
    _loops(q).attend_backward(ctypes.byref(call))
    return dq, dk, dv, dq_norm, dk_norm


def _forward_shapes(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return _empty_heads(q).transpose(1, 2), q.new_empty(2, *q.shape[:3], dtype=torch.float32)


def _backward_shapes(dy: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, ...]:
    dnorm_K = (q.new_empty(q.size(-1), dtype=torch.float32) for _ in range(2))
    return _empty_heads(q), _empty_heads(k), _empty_heads(v), *dnorm_K


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *read, ctx.scale, ctx.eps = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*read, *output)


def _differentiate(ctx: Any, dy_BTHK: Tensor, _: None) -> tuple[Tensor | None, ...]:
    *read, y_BTHK, sums = ctx.saved_tensors
    dy_BHTK = dy_BTHK.transpose(1, 2)
    dqkv = torch.ops.hallmark.attend_backward(dy_BHTK, *read, y_BTHK, sums, ctx.scale, ctx.eps)
    of_q, of_k = Recipe(*read[4:7]), Recipe(*read[7:])
    dq_weight, dk_weight = (None if of.weight_K is None else dw for of, dw in zip((of_q, of_k), dqkv[3:], strict=True))
    return *dqkv[:3], None, dq_weight, None, None, dk_weight, None, None, None, None


_READ = (
    "Tensor q, Tensor k, Tensor v, Tensor? bias, "
    "Tensor? q_weight, Tensor? q_cos, Tensor? q_sin, Tensor? k_weight, Tensor? k_cos, Tensor? k_sin"
)
define(f"attend({_READ}, float scale, float eps) -> (Tensor, Tensor)", _forward, _forward_shapes)
define(
    f"attend_backward(Tensor dy, {_READ}, Tensor y, Tensor sums, float scale, float eps)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _backward,
    _backward_shapes,
)
torch.library.register_autograd("hallmark::attend", _differentiate, setup_context=_keep, lib=operations)
