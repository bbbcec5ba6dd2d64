"""A linear layer that trains faster than torch's where it is compiled for a CPU.

The gradient of its weights is a product over all vectors, dY^T X. In bfloat16 oneDNN is quicker at eight of them, over
an eighth of the vectors each; and it cuts no sum of up to 512 over threads, so that bits do not follow their number.
Not so for rows of any length, which are fewer and of smaller networks: there one product is quicker.

Legend: N vectors, D and E their sizes before and after, P parts.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

PARTS = 8
PARTS_PAY_FROM = 128  # vectors


class Linear(nn.Linear):
    """x W^T + b, (..., D) to (..., E); `nn.Linear` in all but its speed."""

    def forward(self, input: Tensor) -> Tensor:
        learns = torch.compiler.is_compiling() and torch.is_grad_enabled()
        if not learns or input.device.type != "cpu":
            return super().forward(input)
        if torch.is_autocast_enabled("cpu"):  # out here, so that the gradient keeps the small tensor
            input = input.to(torch.get_autocast_dtype("cpu"))
        return product(input, self.weight, self.bias)


def product(x: Tensor, weight_ED: Tensor, bias_E: Tensor | None) -> Tensor:
    """x W^T + b, the bias added by the loop that reads the product next: torch would first fill the answer with it."""
    return _Product.apply(x, weight_ED, bias_E)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight_ED: Tensor, bias_E: Tensor | None) -> Tensor:  # type: ignore[override]
        y = linear(x, weight_ED)
        return y if bias_E is None else y + bias_E.to(y.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight_ED, bias_E = ctx.saved_tensors
        dy_NE, dx, dweight_ED, dbias_E = dy.flatten(0, -2), None, None, None
        if ctx.needs_input_grad[0]:
            dx = (dy @ weight_ED.to(dy.dtype)).to(x.dtype)
        if ctx.needs_input_grad[1]:
            dweight_ED = weight_gradient(dy_NE, x.flatten(0, -2).to(dy.dtype)).to(weight_ED.dtype)
        if ctx.needs_input_grad[2]:
            # Last, as the sum of what the products had to write down; else that is computed a second time for the sum.
            dbias_E = dy_NE.sum(dim=0).to(bias_E.dtype)
        return dx, dweight_ED, dbias_E


def weight_gradient(dy_NE: Tensor, x_ND: Tensor) -> Tensor:
    """dY^T X, (E, D): in bfloat16, of a number of vectors that is compiled in, a sum of parts in float32."""
    from torch.fx.experimental.symbolic_shapes import has_static_value  # imports what only compiling needs

    count = len(x_ND)
    if x_ND.dtype != torch.bfloat16 or not has_static_value(count) or count < PARTS_PAY_FROM or count % PARTS:
        return dy_NE.mT @ x_ND
    dy_PNE, x_PND = dy_NE.unflatten(0, (PARTS, -1)), x_ND.unflatten(0, (PARTS, -1))
    return torch.bmm(dy_PNE.mT, x_PND).float().sum(dim=0)
