"""Rows of a token shard in a new seeded order each epoch: the data path of every objective.

Legend: P pieces of the text, R rows, S spans of the text, T positions.
"""

from collections.abc import Callable, Iterator
from copy import copy
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline.common.errors import HallmarkError, allowed
from pipeline.training.loop import Batch
from pipeline.training.mixture import Mixture


class Epoch(NamedTuple):
    """What an epoch goes through, in the order of the text.

    Attributes:
        pieces_P2: int64, of the text: each one's first token and the one behind the last.
        windows_R2: int64, each row's first piece and the one behind the last.
    """

    pieces_P2: np.ndarray
    windows_R2: np.ndarray


# What is in a row, int64: its tokens, or (for `Windows`) its pieces (P, 2); and a random generator of its own, to the
# arrays of the row; each has one fixed shape.
MakeRow = Callable[[np.ndarray, np.random.Generator], dict[str, np.ndarray]]
# The epoch's number and a random generator (None: begin at the beginning) to an epoch.
PlanEpoch = Callable[[int, np.random.Generator | None], Epoch]
MOST_NAMED = 50  # documents of a batch in a message
ORDER, ROWS, VALIDATION = 0, 1, 2  # what a random generator is for: no two draw the same numbers


class Windows:
    """Endless global batches. What is random in a row follows from seed, epoch and the row's place in it alone, so
    neither a resumed training nor another size of micro-batches changes it.

    Args:
        plan: cuts an epoch into windows.
        make_row: makes what the network is given of the pieces of one window.
        batch_rows: rows per optimizer step.
        micro_rows: rows per forward pass.
        seed: decides the order and all that is random in a row.
        mixture: the text, to name the documents of a batch.
    """

    def __init__(
        self, plan: PlanEpoch, make_row: MakeRow, batch_rows: int, micro_rows: int, seed: int, mixture: Mixture
    ) -> None:
        self.plan, self.make_row, self.seed, self.mixture = plan, make_row, seed, mixture
        self.batch_rows, self.micro_rows = batch_rows, micro_rows
        self.own_rows = range(batch_rows)
        self._begin(epoch=0, position=0)

    def share(self, rank: int, ranks: int) -> None:
        """Give only one rank's rows of each global batch, an equal part of them in their order.

        The global batches and the states are the same for any number of ranks, so another number may go on from a
        state.

        Raises:
            HallmarkError: the rows of a batch do not divide among so many ranks.
        """
        rows, left_over = divmod(self.batch_rows, ranks)
        if left_over:
            fitting = [number for number in range(1, self.batch_rows + 1) if self.batch_rows % number == 0]
            raise HallmarkError(
                f"{self.batch_rows} rows of a batch do not divide among {ranks} ranks; {allowed(fitting)}",
                where="params.yaml: pretrain.batch_tokens",
                fix="start as many processes as one of these, or change batch_tokens",
            )
        self.own_rows = range(rank * rows, (rank + 1) * rows)

    def _begin(self, epoch: int, position: int) -> None:
        self.epoch, self.position = epoch, position
        generator = np.random.default_rng([self.seed, epoch, ORDER])
        self.pieces, windows = self.plan(epoch, generator)
        self.windows = windows[generator.permutation(len(windows))]

    def load_state(self, state: dict[str, Any]) -> None:
        self._begin(state["epoch"], state["position"])

    def __next__(self) -> tuple[list[Batch], dict[str, Any]]:
        rows = [self._row() for place in self._walk() if place in self.own_rows]
        size = self.micro_rows
        batches = [stack_rows(rows[first : first + size]) for first in range(0, len(rows), size)]
        return batches, {"epoch": self.epoch, "position": self.position}

    def _walk(self) -> Iterator[int]:
        """Go on by one global batch; yields each row's place in it while `position` is that row's in the epoch."""
        for place in range(self.batch_rows):
            while self.position == len(self.windows):  # small weights may leave an epoch without a row
                self._begin(self.epoch + 1, position=0)
            yield place
            self.position += 1

    def _row(self) -> dict[str, np.ndarray]:
        first, last = self.windows[self.position]
        generator = np.random.default_rng([self.seed, self.epoch, ROWS, self.position])
        return self.make_row(self.pieces[first:last], generator)

    def origin(self, state: dict[str, Any] | None) -> str:
        """Which documents the global batch after `state` holds (None: the first), by their numbers in the split."""
        batch = copy(self)
        batch.load_state(state or {"epoch": 0, "position": 0})
        numbers = {number for _ in batch._walk() for number in batch._documents()}
        listed = ", ".join(str(number) for number in sorted(numbers)[:MOST_NAMED])
        return f"the training documents {listed}" + ("" if len(numbers) <= MOST_NAMED else f" ({len(numbers)} in all)")

    def _documents(self) -> set[int]:
        pieces_P2 = self.pieces[slice(*self.windows[self.position])]
        first, last = np.searchsorted(self.mixture.shard.offsets, pieces_P2 - [0, 1], side="right").T - 1
        return {number for begin, end in zip(first, last, strict=True) for number in range(begin, end + 1)}


def stack_rows(rows: list[dict[str, np.ndarray]]) -> Batch:
    return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}


def validation_batches(epoch: Epoch, make_row: MakeRow, rows: int, most_rows: int | None = None) -> list[Batch]:
    """The same rows at every validation, in whole batches; at least one."""
    chosen = epoch.windows_R2 if most_rows is None else epoch.windows_R2[:most_rows]
    made = [
        make_row(epoch.pieces_P2[first:last], np.random.default_rng([place, VALIDATION]))
        for place, (first, last) in enumerate(chosen)
    ]
    return [stack_rows(made[first : first + rows]) for first in range(0, len(made), rows)]


def of_tokens(tokens: np.ndarray, make_row: MakeRow) -> MakeRow:
    """Makes a row of pieces of the text: `make_row` is given their tokens, one piece behind the other."""

    def of_pieces(pieces_P2: np.ndarray, generator: np.random.Generator) -> dict[str, np.ndarray]:
        ids = np.concatenate([tokens[first:last] for first, last in pieces_P2])
        return make_row(ids.astype(np.int64), generator)

    return of_pieces


def fixed_windows(mixture: Mixture, length: int, stride: int) -> PlanEpoch:
    """Windows of `length` tokens, one every `stride`, from another offset each epoch, so that their borders move.

    The documents stand one after another, each behind its `bos`; a window may hold parts of several.

    Raises:
        HallmarkError: an epoch is too short for one.
    """
    mixture.require(length, f"a window of {length}")
    spans = mixture.spans(stride)

    def plan(epoch: int, generator: np.random.Generator | None) -> Epoch:
        spans_S2 = spans(epoch)
        total = int((spans_S2[:, 1] - spans_S2[:, 0]).sum())
        offset = 0 if generator is None else int(generator.integers(max(1, min(stride, total - length + 1))))
        return cut_spans(spans_S2, np.arange(offset, total - length + 1, stride), length)

    return plan


def cut_spans(spans_S2: np.ndarray, starts_R: np.ndarray, length: int) -> Epoch:
    """Windows of `length` tokens from the text that the spans are, one behind the other; of as few pieces as can be.

    Args:
        spans_S2: int64, each one's first token and the one behind the last.
        starts_R: int64, how many tokens of that text stand before each window.
        length: at least 1; the last window ends where the text ends, or before.
    """
    ends_S = np.cumsum(spans_S2[:, 1] - spans_S2[:, 0])
    begins_S = ends_S - (spans_S2[:, 1] - spans_S2[:, 0])
    first_R = np.searchsorted(ends_S, starts_R, side="right")
    last_R = np.searchsorted(ends_S, starts_R + length - 1, side="right")
    borders = np.concatenate(([0], np.cumsum(last_R - first_R + 1)))
    row_P = np.repeat(np.arange(len(starts_R)), last_R - first_R + 1)
    span_P = first_R[row_P] + np.arange(borders[-1]) - borders[row_P]
    begin_P = np.maximum(starts_R[row_P], begins_S[span_P])
    end_P = np.minimum(starts_R[row_P] + length, ends_S[span_P])
    moved_P = spans_S2[span_P, 0] - begins_S[span_P]
    return Epoch(np.stack((begin_P + moved_P, end_P + moved_P), axis=1), _pairs(borders))


def document_windows(mixture: Mixture, length: int, least: int) -> PlanEpoch:
    """Windows inside documents, without their `bos`: each document in equal parts of at most `length` tokens.

    Args:
        mixture: the documents.
        length: the most tokens of a window.
        least: shorter documents are left out.

    Raises:
        HallmarkError: fewer than two documents are long enough, or none comes.
    """
    offsets = mixture.shard.offsets
    begins, ends = offsets[:-1] + 1, offsets[1:]
    usable = np.flatnonzero(ends - begins >= least)
    if len(usable) < 2:
        raise HallmarkError(
            f"{len(usable)} documents have {least} tokens or more, and pairs need two",
            where="data/tokens",
            fix="give more documents (of held-out ones, more source.validation_share)",
        )
    mixture.require(least, f"a text of {least}")
    windows: list[np.ndarray] = []
    for place in usable:
        parts = -(-int(ends[place] - begins[place]) // length)
        borders = np.linspace(begins[place], ends[place], parts + 1).round().astype(np.int64)
        windows.append(_pairs(borders))
    every = np.concatenate(windows)
    counts = mixture.counts(every)

    def plan(epoch: int, _generator: np.random.Generator | None) -> Epoch:
        pieces_P2 = np.repeat(every, counts(epoch), axis=0)
        return Epoch(pieces_P2, _pairs(np.arange(len(pieces_P2) + 1)))

    return plan


def _pairs(borders: np.ndarray) -> np.ndarray:
    """[a, b, c] -> [[a, b], [b, c]]."""
    return np.stack((borders[:-1], borders[1:]), axis=1)
