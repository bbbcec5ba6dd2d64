"""A linear layer whose bias costs little where it is compiled for a CPU.

Legend: N vectors, D and E their sizes before and after.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear


class Linear(nn.Linear):
    """x W^T + b, (..., D) to (..., E); `nn.Linear` in all but its speed."""

    def forward(self, input: Tensor) -> Tensor:
        learns = torch.compiler.is_compiling() and torch.is_grad_enabled()
        if self.bias is not None and learns and input.device.type == "cpu":
            return biased_product(input, self.weight, self.bias)
        return super().forward(input)


def biased_product(x: Tensor, weight_ED: Tensor, bias_E: Tensor) -> Tensor:
    """x W^T + b, the bias added by the loop that reads the product next: torch would first fill the answer with it."""
    return _BiasedProduct.apply(x, weight_ED, bias_E)


class _BiasedProduct(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight_ED: Tensor, bias_E: Tensor) -> Tensor:  # type: ignore[override]
        product = linear(x, weight_ED)
        return product + bias_E.to(product.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight_ED, bias_E = ctx.saved_tensors
        dy_NE, dx, dweight_ED = dy.flatten(0, -2), None, None
        if ctx.needs_input_grad[0]:
            dx = (dy @ weight_ED.to(dy.dtype)).to(x.dtype)
        if ctx.needs_input_grad[1]:
            dweight_ED = (dy_NE.mT @ x.flatten(0, -2).to(dy.dtype)).to(weight_ED.dtype)
        # Last, as the sum of what the products had to write down; else that is computed a second time for the sum.
        return dx, dweight_ED, dy_NE.sum(dim=0).to(bias_E.dtype) if ctx.needs_input_grad[2] else None
