"""The feed-forward part of a block.

Legend: B batch, T positions, D hidden size.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import relu

from pipeline.model.activations import gelu, gelu_tanh, silu
from pipeline.model.amx.feed_forward import can_feed_forward, feed_forward_by_amx
from pipeline.model.config import ModelConfig
from pipeline.model.linear import Linear, as_products_read, asks_amx


def relu2(x: Tensor) -> Tensor:
    """relu(x)^2 (So et al. 2021, arXiv:2109.08668)."""
    return relu(x).square()


# name -> (activation, whether a second projection gates it: Shazeer 2020, arXiv:2002.05202).
# `_tanh` is GELU by the tanh approximation (Hendrycks and Gimpel 2016), as GPT-2 and T5 v1.1 compute it.
FEED_FORWARDS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "relu": (relu, False),
    "gelu": (gelu, False),
    "gelu_tanh": (gelu_tanh, False),
    "relu2": (relu2, False),
    "geglu": (gelu, True),
    "geglu_tanh": (gelu_tanh, True),
    "swiglu": (silu, True),
}


class FeedForward(nn.Module):
    """down(act(up(x))), or gated: down(act(gate(x)) * up(x))."""

    by_amx = False  # whether compiled training asks `feed_forward_by_amx` where it can

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation, gated = FEED_FORWARDS[config.feed_forward]
        sizes, bias = (config.hidden_size, config.intermediate_size), config.biases != "none"
        self.gate_proj = Linear(*sizes, bias=bias) if gated else None
        self.up_proj = Linear(*sizes, bias=bias)
        self.down_proj = Linear(*reversed(sizes), bias=bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        layers = (self.up_proj, self.gate_proj, self.down_proj)
        if asks_amx(self) and all(layer is None or type(layer) is Linear for layer in layers):
            low_BTD = as_products_read(x_BTD)
            if can_feed_forward(low_BTD, *layers):
                return feed_forward_by_amx(low_BTD, *layers, self.activation.__name__)
        if self.gate_proj is None:
            return self.down_proj(self.activation(self.up_proj(x_BTD)))
        return self.down_proj(self.activation(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))
