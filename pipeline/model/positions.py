"""Position schemes: what is added to the embeddings, what turns queries and keys, what is added to the scores.

Legend: B batch, T query positions, S key positions, D hidden size, H heads, K head dimension.
"""

import math

import torch
from torch import Tensor

POSITIONS = ("sinusoidal", "learned", "rotary", "alibi", "relative", "none")


def document_positions(documents_BT: Tensor) -> Tensor:
    """positions_BT, int64: where in its document each token stands, of the documents that share a row."""
    places_T = torch.arange(documents_BT.size(1), device=documents_BT.device)
    begins_BT = torch.ones_like(documents_BT, dtype=torch.bool)
    begins_BT[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    return places_T - torch.where(begins_BT, places_T, 0).cummax(dim=1).values


def sinusoidal_table(length: int, hidden_size: int) -> Tensor:
    """table_TD, float32: sin and cos of pos / 10000^(2i/D) in turns (Vaswani et al. 2017, section 3.5)."""
    rates = 10_000.0 ** (-torch.arange(0, hidden_size, 2, dtype=torch.float64) / hidden_size)
    angles = torch.outer(torch.arange(length, dtype=torch.float64), rates)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)[:, :hidden_size].float()


def rotary_tables(length: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary position embedding (Su et al. 2021, arXiv:2104.09864).

    Returns:
        cos_TK and sin_TK, float32, for positions 0 .. length - 1; the two halves of K hold the same angles, the first
        one with its sines negated, see `rotate`.
    """
    frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    angles = torch.outer(torch.arange(length, dtype=torch.float64), frequencies)
    cos, sin = angles.cos().float(), angles.sin().float()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x_BHTK: Tensor, cos_TK: Tensor, sin_TK: Tensor) -> Tensor:
    """Turn each pair (k, k + K/2) by its position's angle, as Llama's and Qwen3's published code does.

    By swapped halves and signed sines: compiled for a CPU it takes a third of the time of halves negated and joined.
    """
    swapped_BHTK = x_BHTK.unflatten(-1, (2, -1)).flip(-2).flatten(-2)
    return x_BHTK * cos_TK + swapped_BHTK * sin_TK


def alibi_slopes(num_heads: int) -> Tensor:
    """slopes_H, float32: 2^(-8h/H) for h = 1 .. H where H is a power of two (Press et al. 2022, arXiv:2108.12409).

    Other numbers of heads take the slopes of the power of two below, then every second one of the power above, as
    the paper's code does.
    """
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    between = [2 ** (-8 * (head + 1) / (2 * power)) for head in range(0, 2 * power, 2)]
    return torch.tensor((slopes + between)[:num_heads])


def relative_buckets(distance: Tensor, *, causal: bool, buckets: int = 32, most: int = 128) -> Tensor:
    """The bucket of each distance (key position - query position), int64 (Raffel et al. 2020, arXiv:1910.10683).

    Half of the buckets hold one distance each, the other half grow logarithmically up to `most`; without `causal`
    one half of all is for keys behind the query and the other for keys ahead.
    """
    if causal:
        offset, apart = torch.zeros_like(distance), (-distance).clamp(min=0)
    else:
        buckets //= 2
        offset, apart = (distance > 0).long() * buckets, distance.abs()
    exact = buckets // 2
    scale = (buckets - exact) / math.log(most / exact)
    far = exact + (torch.log(apart.float().clamp(min=1) / exact) * scale).long()
    return offset + torch.where(apart < exact, apart, far.clamp(max=buckets - 1))
