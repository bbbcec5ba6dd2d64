"""A softmax whose gradient has the same bits on any number of threads.

With the weights W = softmax(S) over the last dimension: dS = W * dW - W * sum(W * dW).
"""

from typing import Any

import torch
from torch import Tensor

STEADY_MULTIPLE = 16  # of the last dimension: there torch's own gradient on a CPU is steady, in a third of the time


def steady_softmax(scores: Tensor) -> Tensor:
    """softmax over the last dimension; its gradient is torch's own where that is steady, or Inductor's."""
    is_eager = scores.device.type == "cpu" and not torch.compiler.is_compiling()
    if is_eager and scores.requires_grad and scores.size(-1) % STEADY_MULTIPLE:
        return _SteadySoftmax.apply(scores)
    return scores.softmax(dim=-1)


class _SteadySoftmax(torch.autograd.Function):
    @staticmethod
    def forward(scores: Tensor) -> Tensor:  # type: ignore[override]
        return scores.softmax(dim=-1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, dweights: Tensor) -> Tensor:  # type: ignore[override]
        (weights,) = ctx.saved_tensors
        shares = weights * dweights
        return torch.addcmul(shares, weights, shares.sum(dim=-1, keepdim=True), value=-1)
