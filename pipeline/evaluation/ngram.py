"""A byte-level n-gram language model: the baseline, in bits per byte, that a trained network has to beat.

Interpolated modified Kneser-Ney smoothing: Chen and Goodman 1998, "An empirical study of smoothing techniques for
language modeling", equations 24-27; below the highest order, a sequence counts once for each byte that was seen before
it. Each document begins behind `ORDER - 1` start marks, which are context only and never predicted, so that the
probabilities of the 256 bytes sum to 1 after any context.

A gram is one uint64 of `BITS` bits per symbol (a byte or the start mark), the predicted byte last. Sorted grams stand
beside one another if they share a context, so counting is sorting, and memory grows with the distinct grams alone.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.common.errors import HallmarkError

ORDER = 5
BITS = 9
START = 256
CHUNK_SYMBOLS = 1 << 22  # counted at once


@dataclass(frozen=True)
class Table:
    """The distinct grams of one order.

    Attributes:
        grams: uint64 (G,), sorted.
        discounted: float64 (G,): (count - discount) / (total of its context).
        contexts: uint64 (C,), sorted: the grams without their last byte.
        left_over: float64 (C,): the probability that the discounts left to the order below.
    """

    grams: np.ndarray
    discounted: np.ndarray
    contexts: np.ndarray
    left_over: np.ndarray


class NgramModel:
    """Probabilities of bytes after the `ORDER - 1` symbols before them."""

    def __init__(self, grams: np.ndarray, counts: np.ndarray) -> None:
        """Smooth the counts of grams of `ORDER` symbols: distinct sorted uint64 (G,), int64 (G,)."""
        self.tables: list[Table] = []  # from the highest order to 1
        for order in range(ORDER, 0, -1):
            self.tables.append(_discount(grams, counts))
            if order > 1:
                grams, counts = count(_shorten(grams, order - 1))

    def probabilities(self, grams: np.ndarray) -> np.ndarray:
        """float64 (N,): the probability of each gram's last byte after its other symbols."""
        probability = np.full(len(grams), 1 / 256)
        for order, table in enumerate(reversed(self.tables), start=1):
            suffixes = _shorten(grams, order)
            left_over = _look_up(table.contexts, table.left_over, suffixes >> BITS, otherwise=1.0)
            probability = left_over * probability + _look_up(table.grams, table.discounted, suffixes, otherwise=0.0)
        return probability


def measure_ngram(train: Iterable[str], validation: Iterable[str]) -> dict[str, float]:
    """Learn from some documents, and measure {"bits_per_byte", "training_bytes", "validation_bytes"} on others.

    Raises:
        HallmarkError: one of the two holds no text.
    """
    model_grams, model_counts = count_texts(train)
    grams, counts = count_texts(validation)
    for name, found in (("training", model_counts), ("validation", counts)):
        if not len(found):
            raise HallmarkError(f"there is no {name} text", where="data/clean", fix="give more documents")
    bits = -np.log2(NgramModel(model_grams, model_counts).probabilities(grams))
    return {
        "bits_per_byte": weighted_mean(bits, counts),
        "training_bytes": int(model_counts.sum()),
        "validation_bytes": int(counts.sum()),
    }


def weighted_mean(values: np.ndarray, counts: np.ndarray) -> float:
    """The mean of `values`, each counted `counts` times, exactly rounded.

    A dot product's last bit depends on threads and on where the arrays lie in memory: two builds differed by it.
    """
    return math.fsum((values * counts).tolist()) / int(counts.sum())


def count_texts(texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """The distinct grams of the documents' texts, sorted, and their counts: one for each byte of a text."""
    return merge_counts(count(pack(symbols)) for symbols in _symbol_chunks(texts))


def _symbol_chunks(texts: Iterable[str]) -> Iterator[np.ndarray]:
    """The documents as symbols, uint64, each behind its start marks; at least `CHUNK_SYMBOLS` at once, but the last."""
    start = np.full(ORDER - 1, START, dtype=np.uint64)
    chunk: list[np.ndarray] = []
    size = 0
    for text in texts:
        chunk += [start, np.frombuffer(text.encode(), dtype=np.uint8).astype(np.uint64)]
        size += len(start) + len(chunk[-1])
        if size >= CHUNK_SYMBOLS:
            yield np.concatenate(chunk)
            chunk, size = [], 0
    if chunk:
        yield np.concatenate(chunk)


def pack(symbols: np.ndarray) -> np.ndarray:
    """The grams of a row of symbols that end in a byte, uint64, in the row's order."""
    last = len(symbols) - ORDER + 1
    grams = np.zeros(max(last, 0), dtype=np.uint64)
    for place in range(ORDER):
        grams <<= BITS
        grams |= symbols[place : place + max(last, 0)]
    return grams[symbols[ORDER - 1 :] != START]


def count(grams: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct grams, sorted, and how often each stands in `grams` (int64)."""
    distinct, counts = np.unique(grams, return_counts=True)
    return distinct, counts


def merge_counts(counted: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Add up counts of sorted grams. Tables of like size are merged first, so each entry moves few times."""
    stack: list[tuple[np.ndarray, np.ndarray]] = [(np.zeros(0, np.uint64), np.zeros(0, np.int64))]
    for table in counted:
        stack.append(table)
        while len(stack) > 1 and len(stack[-2][0]) <= 2 * len(stack[-1][0]):
            stack.append(_merge(stack.pop(), stack.pop()))
    while len(stack) > 1:
        stack.append(_merge(stack.pop(), stack.pop()))
    return stack[0]


def _merge(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    grams = np.concatenate([one[0], other[0]])
    counts = np.concatenate([one[1], other[1]])
    order = np.argsort(grams, kind="stable")
    grams, counts = grams[order], counts[order]
    firsts = _firsts(grams)
    return grams[firsts], np.add.reduceat(counts, firsts) if len(firsts) else counts


def _firsts(grams: np.ndarray) -> np.ndarray:
    """Where each run of equal values begins."""
    return np.flatnonzero(np.concatenate([np.ones(min(len(grams), 1), dtype=bool), grams[1:] != grams[:-1]]))


def _shorten(grams: np.ndarray, order: int) -> np.ndarray:
    """The last `order` symbols of each gram."""
    return grams & ((1 << BITS * order) - 1)


def _discount(grams: np.ndarray, counts: np.ndarray) -> Table:
    discounts = _discounts(counts)[np.minimum(counts, 3)]
    contexts = grams >> BITS
    firsts = _firsts(contexts)
    totals = np.add.reduceat(counts, firsts)
    sizes = np.diff(np.append(firsts, len(grams)))
    return Table(
        grams=grams,
        discounted=(counts - discounts) / np.repeat(totals, sizes),
        contexts=contexts[firsts],
        left_over=np.add.reduceat(discounts, firsts) / totals,
    )


def _discounts(counts: np.ndarray) -> np.ndarray:
    """float64 (4,): what is taken from counts of 0, 1, 2, and 3 or more.

    Chen and Goodman's estimate from how many grams were counted one to four times. A text in which one of these
    numbers is 0 cannot tell; it gets 1/2, 1, 3/2.
    """
    n1, n2, n3, n4 = (int((counts == times).sum()) for times in (1, 2, 3, 4))
    if not (n1 and n2 and n3 and n4):
        return np.array([0.0, 0.5, 1.0, 1.5])
    y = n1 / (n1 + 2 * n2)
    estimate = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return np.clip(estimate, 0.0, [0.0, 1.0, 2.0, 3.0])


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray, otherwise: float) -> np.ndarray:
    """The value of each wanted key in the sorted `keys`, or `otherwise`."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], otherwise)
