"""Multi-head attention with any position scheme and any mask.

Legend: B batch, T query positions, S key positions, D hidden size, H heads, K head dimension.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from pipeline.model.config import ModelConfig
from pipeline.model.norms import RMSNorm
from pipeline.model.positions import rotate


def attend(q_BHTK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, bias_TS: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(K) + bias) V, written out, the softmax in float32 (Vaswani et al. 2017, eq. 1).

    Compiled for a CPU this trains a third faster than `scaled_dot_product_attention`, whose CPU backward
    costs more than the two products. `bias` is 0 where a query may look and -inf where it may not; it
    broadcasts to (B, H, T, S).
    """
    scores_BHTS = (q_BHTK @ k_BHSK.transpose(-2, -1)).float() / math.sqrt(q_BHTK.size(-1)) + bias_TS
    return scores_BHTS.softmax(dim=-1).to(v_BHSK.dtype) @ v_BHSK


class Attention(nn.Module):
    """Self-attention with per-head query and key norms (QK-norm) and no biases, as in Qwen3."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        self.q_norm = RMSNorm(config.head_dim, config.norm_eps)
        self.k_norm = RMSNorm(config.head_dim, config.norm_eps)

    def forward(self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor], bias_TS: Tensor) -> Tensor:
        q_BHTK = rotate(self.q_norm(self._split(self.q_proj(x_BTD))), *rotary)
        k_BHTK = rotate(self.k_norm(self._split(self.k_proj(x_BTD))), *rotary)
        v_BHTK = self._split(self.v_proj(x_BTD))
        q_BHTK, k_BHTK = q_BHTK.to(v_BHTK.dtype), k_BHTK.to(v_BHTK.dtype)
        if x_BTD.device.type == "cpu":
            y_BHTK = attend(q_BHTK, k_BHTK, v_BHTK, bias_TS)
        else:
            y_BHTK = scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, bias_TS.to(q_BHTK.dtype))
        return self.o_proj(y_BHTK.transpose(1, 2).flatten(2))

    def _split(self, x_BTD: Tensor) -> Tensor:
        return x_BTD.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def causal_bias(length: int, device: torch.device) -> Tensor:
    """bias_TS, float32: 0 on and below the diagonal, -inf above, so that no position sees a later one."""
    return torch.full((length, length), -math.inf, device=device).triu(1)
