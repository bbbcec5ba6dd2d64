"""Rows of a token shard in a new seeded order each epoch: the data path of every objective.

Legend: B rows, T positions.
"""

from collections.abc import Callable, Iterator
from copy import copy
from typing import Any, NamedTuple

import numpy as np
import torch

from pipeline.common.errors import HallmarkError, allowed
from pipeline.tokenization.shards import TokenShard
from pipeline.training.loop import Batch


class Epoch(NamedTuple):
    """What an epoch goes through, in the order of the text.

    Attributes:
        items: (N, ...), what is cut into rows: tokens, or the pieces of packed documents.
        windows: int64 (windows, 2), each row's first item and the one behind the last.
    """

    items: np.ndarray
    windows: np.ndarray


# The int64 items of a window and a random generator of its own to the arrays of one row; each has one fixed shape.
MakeRow = Callable[[np.ndarray, np.random.Generator], dict[str, np.ndarray]]
# A random generator (None: begin at the beginning) to an epoch.
PlanEpoch = Callable[[np.random.Generator | None], Epoch]
MOST_NAMED = 50  # documents of a batch in a message
ORDER, ROWS, VALIDATION = 0, 1, 2  # what a random generator is for: no two draw the same numbers


class Windows:
    """Endless global batches. What is random in a row follows from seed, epoch and the row's place in it alone, so
    neither a resumed training nor another size of micro-batches changes it.

    Args:
        plan: cuts an epoch into windows.
        make_row: makes what the network is given of one window.
        batch_rows: rows per optimizer step.
        micro_rows: rows per forward pass.
        seed: decides the order and all that is random in a row.
        offsets: int64 (documents + 1,), the first token of each document, to name those of a batch.
    """

    def __init__(
        self, plan: PlanEpoch, make_row: MakeRow, batch_rows: int, micro_rows: int, seed: int, offsets: np.ndarray
    ) -> None:
        self.plan, self.make_row, self.seed, self.offsets = plan, make_row, seed, offsets
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
        self.items, windows = self.plan(generator)
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
            if self.position == len(self.windows):
                self._begin(self.epoch + 1, position=0)
            yield place
            self.position += 1

    def _row(self) -> dict[str, np.ndarray]:
        first, last = self.windows[self.position]
        generator = np.random.default_rng([self.seed, self.epoch, ROWS, self.position])
        return self.make_row(self.items[first:last].astype(np.int64), generator)

    def origin(self, state: dict[str, Any] | None) -> str:
        """Which documents the global batch after `state` holds (None: the first), by their numbers in the split."""
        batch = copy(self)
        batch.load_state(state or {"epoch": 0, "position": 0})
        numbers = {number for _ in batch._walk() for number in batch._documents()}
        listed = ", ".join(str(number) for number in sorted(numbers)[:MOST_NAMED])
        return f"the training documents {listed}" + ("" if len(numbers) <= MOST_NAMED else f" ({len(numbers)} in all)")

    def _documents(self) -> set[int]:
        window = self.windows[self.position]
        spans_P2 = window[None] if self.items.ndim == 1 else self.items[slice(*window)]
        first, last = np.searchsorted(self.offsets, spans_P2 - [0, 1], side="right").T - 1
        return {number for begin, end in zip(first, last, strict=True) for number in range(begin, end + 1)}


def stack_rows(rows: list[dict[str, np.ndarray]]) -> Batch:
    return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}


def validation_batches(epoch: Epoch, make_row: MakeRow, rows: int, most_rows: int | None = None) -> list[Batch]:
    """The same rows at every validation, in whole batches; at least one."""
    chosen = epoch.windows if most_rows is None else epoch.windows[:most_rows]
    made = [
        make_row(epoch.items[first:last].astype(np.int64), np.random.default_rng([place, VALIDATION]))
        for place, (first, last) in enumerate(chosen)
    ]
    return [stack_rows(made[first : first + rows]) for first in range(0, len(made), rows)]


def fixed_windows(shard: TokenShard, length: int, stride: int) -> PlanEpoch:
    """Windows of `length` tokens, one every `stride`, from another offset each epoch, so that their borders move.

    The documents stand one after another, each behind its `bos`; a window may hold parts of several.

    Raises:
        HallmarkError: the shard is too short for one.
    """
    total = len(shard.tokens)
    if total < length:
        raise HallmarkError(
            f"{total} tokens are too few for a window of {length}",
            where="data/tokens",
            fix="give more text (of held-out text, more source.validation_share), or lower model.context_length",
        )

    def plan(generator: np.random.Generator | None) -> Epoch:
        offset = 0 if generator is None else int(generator.integers(min(stride, total - length + 1)))
        starts = np.arange(offset, total - length + 1, stride, dtype=np.int64)
        return Epoch(shard.tokens, np.stack((starts, starts + length), axis=1))

    return plan


def document_windows(shard: TokenShard, length: int, least: int) -> PlanEpoch:
    """Windows inside documents, without their `bos`: each document in equal parts of at most `length` tokens.

    Args:
        shard: the tokens and the borders of their documents.
        length: the most tokens of a window.
        least: shorter documents are left out.

    Raises:
        HallmarkError: fewer than two documents are long enough.
    """
    begins, ends = shard.offsets[:-1] + 1, shard.offsets[1:]
    usable = np.flatnonzero(ends - begins >= least)
    if len(usable) < 2:
        raise HallmarkError(
            f"{len(usable)} documents have {least} tokens or more, and pairs need two",
            where="data/tokens",
            fix="give more documents (of held-out ones, more source.validation_share)",
        )
    windows: list[np.ndarray] = []
    for place in usable:
        parts = -(-int(ends[place] - begins[place]) // length)
        borders = np.linspace(begins[place], ends[place], parts + 1).round().astype(np.int64)
        windows.append(np.stack((borders[:-1], borders[1:]), axis=1))
    every = Epoch(shard.tokens, np.concatenate(windows))
    return lambda _generator: every
