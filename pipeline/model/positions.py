"""Position schemes.

Legend: B batch, T positions, H heads, K head dimension.
"""

import torch
from torch import Tensor


def rotary_tables(length: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary position embedding (Su et al. 2021, arXiv:2104.09864).

    Returns:
        cos_TK and sin_TK, float32, for positions 0 .. length - 1; the two halves of K hold the same angles.
    """
    frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angles = torch.outer(torch.arange(length, dtype=torch.float64), frequencies)
    angles_TK = torch.cat((angles, angles), dim=-1)
    return angles_TK.cos().float(), angles_TK.sin().float()


def rotate(x_BHTK: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
    """Turn each pair (k, k + K/2) by its position's angle, as Llama's and Qwen3's published code does."""
    first, second = x_BHTK.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return x_BHTK * cos_TK + turned * sin_TK
