"""Rows of a token shard in a new seeded order each epoch: the data path of every objective.

Legend: B rows, T positions.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pipeline.common.errors import HallmarkError
from pipeline.tokenization.shards import TokenShard
from pipeline.training.loop import Batch

# The tokens of a window and a random generator of its own to the arrays of one row; each array has one fixed shape.
MakeRow = Callable[[np.ndarray, np.random.Generator], dict[str, np.ndarray]]
# A random generator (None: begin at the beginning) to the windows of an epoch, int64 (windows, 2): first token and the
# one behind the last.
PlanEpoch = Callable[[np.random.Generator | None], np.ndarray]
ORDER, ROWS, VALIDATION = 0, 1, 2  # what a random generator is for: no two draw the same numbers


class Windows:
    """Endless global batches. What is random in a row follows from seed, epoch and the row's place in it alone, so
    neither a resumed training nor another size of micro-batches changes it.

    Args:
        tokens: of the shard.
        plan: cuts an epoch into windows.
        make_row: makes what the network is given of one window.
        batch_rows: rows per optimizer step.
        micro_rows: rows per forward pass.
        seed: decides the order and all that is random in a row.
    """

    def __init__(
        self, tokens: np.ndarray, plan: PlanEpoch, make_row: MakeRow, batch_rows: int, micro_rows: int, seed: int
    ) -> None:
        self.tokens, self.plan, self.make_row, self.seed = tokens, plan, make_row, seed
        self.batch_rows, self.micro_rows = batch_rows, micro_rows
        self.epoch, self.position = 0, 0
        self.windows = self._windows()

    def _windows(self) -> np.ndarray:
        generator = np.random.default_rng([self.seed, self.epoch, ORDER])
        windows = self.plan(generator)
        return windows[generator.permutation(len(windows))]

    def load_state(self, state: dict[str, Any]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]
        self.windows = self._windows()

    def __next__(self) -> tuple[list[Batch], dict[str, Any]]:
        rows = [self._next_row() for _ in range(self.batch_rows)]
        size = self.micro_rows
        batches = [stack_rows(rows[first : first + size]) for first in range(0, len(rows), size)]
        return batches, {"epoch": self.epoch, "position": self.position}

    def _next_row(self) -> dict[str, np.ndarray]:
        if self.position == len(self.windows):
            self.epoch, self.position = self.epoch + 1, 0
            self.windows = self._windows()
        first, last = self.windows[self.position]
        generator = np.random.default_rng([self.seed, self.epoch, ROWS, self.position])
        self.position += 1
        return self.make_row(self.tokens[first:last].astype(np.int64), generator)


def stack_rows(rows: list[dict[str, np.ndarray]]) -> Batch:
    return {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}


def validation_batches(
    tokens: np.ndarray, windows: np.ndarray, make_row: MakeRow, rows: int, most_rows: int | None = None
) -> list[Batch]:
    """The same rows at every validation, in whole batches; at least one."""
    chosen = windows if most_rows is None else windows[:most_rows]
    made = [
        make_row(tokens[first:last].astype(np.int64), np.random.default_rng([place, VALIDATION]))
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

    def plan(generator: np.random.Generator | None) -> np.ndarray:
        offset = 0 if generator is None else int(generator.integers(min(stride, total - length + 1)))
        starts = np.arange(offset, total - length + 1, stride, dtype=np.int64)
        return np.stack((starts, starts + length), axis=1)

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
    every = np.concatenate(windows)
    return lambda _generator: every
