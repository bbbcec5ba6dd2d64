"""Packing documents into rows: best-fit-decreasing (Ding et al. 2024, "Fewer Truncations Improve Language Modeling",
arXiv:2404.10830), without attention from one document to another.

A document longer than a row is cut into full rows; what remains of it, and every shorter document, goes as one piece
into the row that it leaves the least room in. Each token is once an epoch in exactly one row.

Legend: P pieces of documents, R rows, T positions.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.common.errors import HallmarkError
from pipeline.training.masking import NO_TARGET, Masking
from pipeline.training.mixture import Mixture, cut_documents
from pipeline.training.windows import Epoch, MakeRow, PlanEpoch


class _Layout(NamedTuple):
    """How rows are made of the pieces of an epoch, given their lengths, longest first.

    Attributes:
        pieces_P2: int64, all that come, in the order of the text.
        room_P: what each leaves of a row.
        by_row_P: int64, the places of the sorted pieces, row by row.
        windows_R2: int64, each row's part of `by_row_P`.
    """

    pieces_P2: np.ndarray
    room_P: np.ndarray
    by_row_P: np.ndarray
    windows_R2: np.ndarray


def packed_documents(mixture: Mixture, length: int) -> PlanEpoch:
    """Rows of at most `length` tokens, of whole documents and the ends of longer ones.

    How many rows there are, and of which lengths each is made, follows from the documents' lengths alone and is found
    once, if every epoch holds the same ones; which piece of a length goes where is drawn anew each epoch.

    Raises:
        HallmarkError: there is no document, or none comes.
    """
    if not mixture.shard.documents:
        raise HallmarkError("there is no document to pack", where="data/tokens", fix="give more text")
    mixture.require(1, "a row")
    units_U2 = cut_documents(mixture.shard.offsets, length)
    counts = mixture.counts(units_U2)
    steady = _lay_out(np.repeat(units_U2, counts(0), axis=0), length) if mixture.is_steady else None

    def plan(epoch: int, generator: np.random.Generator | None) -> Epoch:
        layout = steady or _lay_out(np.repeat(units_U2, counts(epoch), axis=0), length)
        count = len(layout.pieces_P2)
        order_P = np.arange(count) if generator is None else generator.permutation(count)
        longest_first_P = order_P[np.argsort(layout.room_P[order_P], kind="stable")]
        packed_P2 = layout.pieces_P2[longest_first_P[layout.by_row_P]]
        first_tokens_R = packed_P2[layout.windows_R2[:, 0], 0]
        return Epoch(packed_P2, layout.windows_R2[np.argsort(first_tokens_R)])

    return plan


def _lay_out(pieces_P2: np.ndarray, length: int) -> _Layout:
    lengths_P = pieces_P2[:, 1] - pieces_P2[:, 0]
    rows_P = best_fit(lengths_P, length)
    borders = np.concatenate(([0], np.cumsum(np.bincount(rows_P))))
    windows_R2 = np.stack((borders[:-1], borders[1:]), axis=1)
    room_P = (length - lengths_P).astype(np.min_scalar_type(length))  # two bytes are sorted thrice as fast as eight
    return _Layout(pieces_P2, room_P, np.argsort(rows_P, kind="stable"), windows_R2)


def best_fit(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """The row of each piece, longest first, int64 (P,): of the rows with room for it the fullest, or else a new one.

    All pieces of a length are placed together: a row of the least room that fits stays that after it took one, so it
    takes as many as fit. The steps are few, whatever the number of pieces: at most one for each pair of a length and
    a room, apart from the rows' numbers, which NumPy writes.

    Args:
        lengths: int (P,), from 1 to `capacity`, in any order.
        capacity: the tokens of a row.
    """
    counts = np.bincount(lengths, minlength=capacity + 1)
    open_rows, rows, chosen = _OpenRows(), 0, [np.zeros(0, dtype=np.int64)]
    for length in np.flatnonzero(counts)[::-1].tolist():
        left = int(counts[length])
        while left:
            if not open_rows.fits(length):
                new = -(-left // (capacity // length))
                open_rows.put(capacity, np.arange(rows, rows + new))
                rows += new
            room, candidates = open_rows.take(length)
            each = room // length
            used, unused = np.split(candidates, [-(-left // each)])
            placed = np.repeat(used, each)[:left]
            chosen.append(placed)
            left -= len(placed)
            whole, in_last = divmod(len(placed), each)
            open_rows.put(room, unused)
            open_rows.put(room - each * length, used[:whole])
            open_rows.put(room - in_last * length, used[whole:])
    return np.concatenate(chosen)


class _OpenRows:
    """Rows that are not full, by their room."""

    def __init__(self) -> None:
        self.rooms: list[int] = []  # rising, each with some row
        self.rows: defaultdict[int, list[np.ndarray]] = defaultdict(list)

    def put(self, room: int, rows: np.ndarray) -> None:
        if room and len(rows):
            if not self.rows[room]:
                insort(self.rooms, room)
            self.rows[room].append(rows)

    def fits(self, length: int) -> bool:
        return bool(self.rooms) and self.rooms[-1] >= length

    def take(self, length: int) -> tuple[int, np.ndarray]:
        """The least room that holds `length`, and some rows that have it."""
        place = bisect_left(self.rooms, length)
        room = self.rooms[place]
        rows = self.rows[room].pop()
        if not self.rows[room]:
            del self.rooms[place]
        return room, rows


@dataclass(frozen=True)
class PackedSuccessors:
    """Rows in which each document is predicted on its own, the `bos` behind it included: that is how it ends.

    Attributes:
        tokens: of the shard.
        make_row: makes inputs and labels, and perhaps a prefix, of a piece and the token behind it.
        length: T.
        pad_id: fills a row up; it is no target.
        bos_id: stands behind the last document, as behind all others.
    """

    tokens: np.ndarray
    make_row: MakeRow
    length: int
    pad_id: int
    bos_id: int

    def __call__(self, pieces_P2: np.ndarray, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Pieces to {"input_ids", "labels", "documents"} (T,), int64; a prefix, too, is given to every position."""
        made = [self.make_row(self._with_next(first, last), generator) for first, last in pieces_P2]
        row = {
            "input_ids": _fill(self.length, self.pad_id, [part["input_ids"] for part in made]),
            "labels": _fill(self.length, NO_TARGET, [part["labels"] for part in made]),
            "documents": _document_numbers(pieces_P2, self.length),
        }
        if "prefix" in made[0]:
            prefixes = [np.full_like(part["input_ids"], part["prefix"]) for part in made]
            row["prefix"] = _fill(self.length, 0, prefixes)
        return row

    def _with_next(self, first: int, last: int) -> np.ndarray:
        ids = self.tokens[first : last + 1].astype(np.int64)
        return ids if last < len(self.tokens) else np.append(ids, self.bos_id)


@dataclass(frozen=True)
class PackedMasking:
    """Rows in which tokens are hidden, see `Masking`; padding never is.

    Attributes:
        tokens: of the shard.
        masking: hides tokens of the whole row.
        length: T.
    """

    tokens: np.ndarray
    masking: Masking
    length: int

    def __call__(self, pieces_P2: np.ndarray, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """Pieces to the arrays of `Masking` and "documents", int64 (T,)."""
        texts = [self.tokens[first:last] for first, last in pieces_P2]
        ids_T = _fill(self.length, self.masking.tokenizer.pad_id, texts)
        return {**self.masking(ids_T, generator), "documents": _document_numbers(pieces_P2, self.length)}


def _fill(length: int, value: int, parts: list[np.ndarray]) -> np.ndarray:
    row_T, joined = np.full(length, value, dtype=np.int64), np.concatenate(parts)
    row_T[: len(joined)] = joined
    return row_T


def _document_numbers(pieces_P2: np.ndarray, length: int) -> np.ndarray:
    """int64 (T,): the place in the row of each position's document; padding is one more."""
    lengths_P = pieces_P2[:, 1] - pieces_P2[:, 0]
    return np.repeat(np.arange(len(pieces_P2) + 1), [*lengths_P, length - lengths_P.sum()])
