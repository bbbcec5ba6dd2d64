"""Vectors of the n-grams that end at a token, added to the token's own (Pagnoni et al. 2024, arXiv:2412.09871, 3.2.1).

What a short stretch of tokens says about the next one is then looked up, where a block would have to learn to compute
it. There are more n-grams than rows: a hash gives each its row, which it may share.

Legend: B batch, T positions, S positions that were read, D hidden size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

PRIME = 2**31 - 1  # products stay far below 2**63
BASE = 1_000_003


class NgramEmbedding(nn.Module):
    """The sum of the vectors of a token's n-grams, one for each size. At the beginning all are 0.

    Args:
        sizes: tokens of an n-gram, ascending, each 2 or more.
        buckets: rows of the table of each size.
        hidden_size: D.
    """

    def __init__(self, sizes: Sequence[int], buckets: int, hidden_size: int) -> None:
        super().__init__()
        self.sizes, self.buckets = tuple(sizes), buckets
        self.tables = nn.ModuleList(nn.Embedding(buckets, hidden_size) for _ in sizes)

    def forward(self, ids_BT: Tensor, positions_BT: Tensor, read_BS: Tensor | None = None) -> Tensor:
        """x_BTD of int64 ids at their positions; for `read_BS` see `ngram_rows`."""
        rows = ngram_rows(ids_BT, positions_BT, self.sizes, self.buckets, read_BS)
        first, *others = (table(rows_BT) for table, rows_BT in zip(self.tables, rows, strict=True))
        return sum(others, start=first)


def ngram_rows(
    ids_BT: Tensor, positions_BT: Tensor, sizes: Sequence[int], buckets: int, read_BS: Tensor | None = None
) -> list[Tensor]:
    """For each size the row, int64 (B, T), of the n-gram that ends at each token: a polynomial of its tokens.

    Args:
        ids_BT: int64 token ids.
        positions_BT: int64, where in their texts they stand; B may be 1. Nothing stands before position 0, so that no
            n-gram reaches from one document of a row into another.
        sizes, buckets: see `NgramEmbedding`.
        read_BS: int64, the ids at positions 0 to S - 1 of each text, these among them; None: what precedes a token in
            its text precedes it in `ids_BT`.
    """
    places_BT = positions_BT
    if read_BS is None:
        read_BS, places_BT = ids_BT, torch.arange(ids_BT.size(1), device=ids_BT.device)[None]
    hash_BT, rows = ids_BT + 1, []
    for back in range(1, max(sizes)):
        earlier_BT = read_BS.gather(1, (places_BT - back).clamp(min=0).expand_as(ids_BT))
        earlier_BT = torch.where(positions_BT >= back, earlier_BT + 1, 0)
        hash_BT = (hash_BT * BASE + earlier_BT) % PRIME
        if back + 1 in sizes:
            rows.append(hash_BT % buckets)
    return rows
