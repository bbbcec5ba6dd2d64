"""Batches of texts of similar length, padded to a few lengths.

Legend: N examples, B rows of a batch, T positions.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Batch = dict[str, Tensor]
Collate = Callable[[np.ndarray, int], Batch]  # (example numbers, T) to the tensors of one batch

LENGTH_STEP = 8
LEAST_LENGTH = 32  # with fewer rows the bits of a float32 product depend on the number of threads
MOST_LENGTHS = {"cpu": 32, "cuda": 6}  # on a GPU each is compiled or recorded anew, and padding costs little


def bucket_lengths(longest: int) -> np.ndarray:
    """The lengths that texts of up to `longest` tokens are padded to: evenly spread, the last is `longest`."""
    step = -(-longest // (LENGTH_STEP * MOST_LENGTHS["cpu"])) * LENGTH_STEP
    return np.array([*range(max(LEAST_LENGTH, step), longest, step), longest])


def every_few(buckets: np.ndarray, most: int) -> np.ndarray:
    """At most so many of the lengths, evenly spread; the last is among them."""
    return buckets[::-1][:: -(-len(buckets) // most)][::-1]


def smallest_fitting(lengths_N: np.ndarray, buckets: np.ndarray) -> np.ndarray:
    """For each length the smallest of the ascending `buckets` that holds it."""
    return buckets[np.searchsorted(buckets, lengths_N)]


def pad_rows(ids: Sequence[Sequence[int]], rows: int, length: int, pad_id: int) -> tuple[Tensor, Tensor]:
    """Stack token lists to (ids_BT, lengths_B), int64, padded on the right and with empty rows (of length 0) below."""
    ids_BT = torch.full((rows, length), pad_id, dtype=torch.int64)
    lengths_B = torch.zeros(rows, dtype=torch.int64)
    for row, tokens in enumerate(ids):
        ids_BT[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.int64)
        lengths_B[row] = len(tokens)
    return ids_BT, lengths_B


def pad_to_longest(numbers: Sequence[np.ndarray], rows: int) -> Tensor:
    """Stack arrays to int64 (`rows`, N), padded with 0 to the longest, and to one column at least."""
    padded_BN = torch.zeros(rows, max([1, *map(len, numbers)]), dtype=torch.int64)
    for row, some in enumerate(numbers):
        padded_BN[row, : len(some)] = torch.from_numpy(some)
    return padded_BN


class LengthBuckets:
    """Endless batches of B rows, similar lengths together, in a new seeded order each epoch.

    An epoch shuffles the examples, sorts them by padded length (the order among equals stays random), cuts them
    into batches of `batch_size`, and shuffles those. Each example comes once; only one batch is not full.

    Args:
        lengths: int (N,), tokens of each example, at least one example.
        buckets: ascending lengths to pad to.
        batch_size: B.
        collate: makes a batch from example numbers and T; it fills the rows that are missing to B.
        seed: decides the order.
        names: what each example is called in messages; None: its number.
    """

    def __init__(
        self,
        lengths: np.ndarray,
        buckets: np.ndarray,
        batch_size: int,
        collate: Collate,
        seed: int = 0,
        names: Sequence[str] | None = None,
    ) -> None:
        self.buckets, self.padded = buckets, smallest_fitting(lengths, buckets)
        self.batch_size, self.collate, self.seed = batch_size, collate, seed
        self.names = names
        self.epoch, self.position = 0, 0
        self.plan = self._plan(self.epoch)

    def pad_to_few(self, most: int) -> None:
        """Pad to at most so many lengths; call it before the first batch."""
        self.buckets = every_few(self.buckets, most)
        self.padded = smallest_fitting(self.padded, self.buckets)
        self.plan = self._plan(self.epoch)

    def _plan(self, epoch: int) -> list[np.ndarray]:
        """The example numbers of each batch of an epoch."""
        generator = np.random.default_rng([self.seed, epoch])
        shuffled = generator.permutation(len(self.padded))
        batches = self._cut(shuffled)
        return [batches[place] for place in generator.permutation(len(batches))]

    def _cut(self, numbers: np.ndarray) -> list[np.ndarray]:
        by_length = numbers[np.argsort(self.padded[numbers], kind="stable")]
        return [by_length[first : first + self.batch_size] for first in range(0, len(by_length), self.batch_size)]

    @property
    def steps_per_epoch(self) -> int:
        return len(self.plan)

    @property
    def tokens_per_epoch(self) -> int:
        """Positions that an epoch computes, padding included."""
        return sum(self.batch_size * int(self.padded[numbers].max()) for numbers in self.plan)

    def load_state(self, state: dict[str, Any]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]
        self.plan = self._plan(self.epoch)

    def origin(self, state: dict[str, Any] | None) -> str:
        """Which examples the batch after `state` holds (None: the first)."""
        epoch, position = (state["epoch"], state["position"]) if state else (0, 0)
        plan = self._plan(epoch)
        numbers = plan[position] if position < len(plan) else self._plan(epoch + 1)[0]
        return "the rows " + ", ".join(str(n) if self.names is None else self.names[n] for n in numbers)

    def __next__(self) -> tuple[list[Batch], dict[str, Any]]:
        if self.position == len(self.plan):
            self.epoch, self.position = self.epoch + 1, 0
            self.plan = self._plan(self.epoch)
        numbers = self.plan[self.position]
        self.position += 1
        return [self._collate(numbers)], {"epoch": self.epoch, "position": self.position}

    def one_pass(self) -> Iterator[tuple[np.ndarray, Batch]]:
        """Every example once, unshuffled: (example numbers, batch)."""
        for numbers in self._cut(np.arange(len(self.padded))):
            yield numbers, self._collate(numbers)

    def _collate(self, numbers: np.ndarray) -> Batch:
        return self.collate(numbers, int(self.padded[numbers].max()))
