"""A linear layer that learns the same bits on any number of threads, in bfloat16 on a CPU.

The gradient of its weights is a product over all vectors, dY^T X. By AMX instructions oneDNN cuts such a sum over
threads where that is fastest, so that its bits follow their number; sums of up to 512 it never cuts. So the product is
made in parts, which are also quicker where they are compiled; compiled training by AMX has an operation for all of it.

Legend: N vectors, D and E their sizes before and after, P parts.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

from pipeline.model.amx.linear import can_project, linear_by_amx

MOST_SUMMED = 512
PARTS_OF_ANY_LENGTH = 8  # where one compilation is for rows of every length: enough for 4,096 vectors


class Linear(nn.Linear):
    """x W^T + b, (..., D) to (..., E); `nn.Linear` in all but how it learns on a CPU."""

    by_amx = False  # whether compiled training asks `linear_by_amx` where it can

    def forward(self, input: Tensor) -> Tensor:
        special = torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu")
        if special and torch.is_grad_enabled() and input.device.type == "cpu":
            input = as_products_read(input)
            if asks_amx(self) and can_project(input, [self]):
                return linear_by_amx(input, [self])[0]
            return product(input, self.weight, self.bias)
        return super().forward(input)


def project(x: Tensor, layers: Sequence[nn.Module]) -> list[Tensor]:
    """What each of these layers makes of the same x."""
    asking = [layer for layer in layers if type(layer) is Linear and asks_amx(layer)]
    if len(asking) == len(layers):
        low = as_products_read(x)
        if can_project(low, asking):
            return linear_by_amx(low, asking)
    return [layer(x) for layer in layers]


def asks_amx(module: nn.Module) -> bool:
    """Whether it asks an operation of `pipeline.model.amx` now, if that can be asked."""
    return bool(module.by_amx) and torch.compiler.is_compiling() and torch.is_grad_enabled()


def as_products_read(x: Tensor) -> Tensor:
    """x in the precision of products, before a gradient keeps it."""
    return x.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else x


def product(x: Tensor, weight_ED: Tensor, bias_E: Tensor | None) -> Tensor:
    """x W^T + b."""
    return _Product.apply(as_products_read(x), weight_ED, bias_E)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, weight_ED: Tensor, bias_E: Tensor | None
    ) -> Tensor:
        low_ED = weight_ED.to(x.dtype)
        ctx.save_for_backward(x, low_ED)
        ctx.learned_dtype = weight_ED.dtype
        if bias_E is None:
            return linear(x, low_ED)
        if not torch.compiler.is_compiling():
            return linear(x, low_ED, bias_E.to(x.dtype))
        # torch would fill the answer with the bias first; so the loop that reads the answer next adds it.
        return linear(x, low_ED) + bias_E.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, low_ED = ctx.saved_tensors
        dy_NE, dx, dweight_ED, dbias_E = dy.flatten(0, -2), None, None, None
        if ctx.needs_input_grad[0]:
            dx = dy @ low_ED
        if ctx.needs_input_grad[1]:
            dweight_ED = weight_gradient(dy_NE, x.flatten(0, -2)).to(ctx.learned_dtype)
        if ctx.needs_input_grad[2]:
            # Last, as the sum of what the products had to write down; else that is computed a second time for the sum.
            dbias_E = dy_NE.sum(dim=0).to(ctx.learned_dtype)
        return dx, dweight_ED, dbias_E


def weight_gradient(dy_NE: Tensor, x_ND: Tensor) -> Tensor:
    """dY^T X, (E, D): in bfloat16 a sum of parts in float32, if N can be cut evenly."""
    count, parts = len(x_ND), 1
    if x_ND.dtype == torch.bfloat16:
        parts = count_parts(count) if is_known(count) else PARTS_OF_ANY_LENGTH
    if parts == 1 or count % parts:
        return dy_NE.mT @ x_ND
    dy_PNE, x_PND = dy_NE.unflatten(0, (parts, -1)), x_ND.unflatten(0, (parts, -1))
    return torch.bmm(dy_PNE.mT, x_PND).float().sum(dim=0)


def is_known(count: int) -> bool:
    """Whether it is a number, not a variable of what is being compiled."""
    if not torch.compiler.is_compiling():
        return True
    from torch.fx.experimental.symbolic_shapes import has_static_value  # imports what only compiling needs

    return has_static_value(count)


def count_parts(count: int) -> int:
    """The fewest equal parts of at most `MOST_SUMMED`; 1 where only many small ones are equal."""
    least = -(-count // MOST_SUMMED)
    return next((parts for parts in range(least, 4 * least) if count % parts == 0), 1)
