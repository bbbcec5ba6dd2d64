"""How often the text of each source comes in an epoch: `pretrain.source_weights`.

The documents of a source stand in a ring, in a seeded order, and each epoch goes on round it by the source's weight
times its tokens: with weight 2 twice round, with 0.5 through the half that the epoch before left out. So all of a
source is seen in turn: after any number of epochs, no part of it has come more than once more often than another. The
place in the ring follows from the number of the epoch alone: it needs no state.

Legend: S spans of the text, U units, which are documents or the parts that they are cut into.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np

from pipeline.common.errors import HallmarkError, allowed
from pipeline.tokenization.shards import TokenShard

RING = 3  # what its random generator is for; the others are in `pipeline.training.windows`
SETTING = "params.yaml: pretrain.source_weights"


@dataclass(frozen=True)
class Mixture:
    """The text of a shard, each source of it as often as its weight says.

    Attributes:
        shard: the documents.
        weights: how many times the documents of a source come in an epoch; 1 where it is not named.
        seed: decides which part of a source comes first, where its weight is no whole number.

    Raises:
        HallmarkError: a weight names a source that has no document here; lists those that have.
    """

    shard: TokenShard
    weights: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.weights:
            return
        known = [name for name, tokens in self.shard.tokens_by_source().items() if tokens]
        if unknown := sorted(set(self.weights) - set(known)):
            raise HallmarkError(
                f"no training document is of the source {', '.join(map(repr, unknown))}; {allowed(known)}",
                where=SETTING,
                fix="name one of these",
            )

    @property
    def is_plain(self) -> bool:
        """Whether an epoch is the whole text, once."""
        return all(weight == 1 for weight in self._weights)

    @property
    def is_steady(self) -> bool:
        """Whether all epochs hold the same text."""
        return all(weight.denominator == 1 for weight in self._weights)

    @property
    def _weights(self) -> list[Fraction]:
        """By source. 0.1 is a tenth here, not the float nearest to it: ten epochs are then exactly once round."""
        return [Fraction(str(self.weights.get(name, 1))) for name in self.shard.sources]

    def tokens(self) -> dict[str, float]:
        """How many tokens of each source come in an epoch, on average over epochs."""
        found = self.shard.tokens_by_source()
        return {name: float(weight * found[name]) for name, weight in zip(found, self._weights, strict=True)}

    def describe(self) -> dict[str, str]:
        """What comes of each source, in words, if there are several: tokens of an epoch, and their share of it."""
        found, expected = self.shard.tokens_by_source(), self.tokens()
        total = sum(expected.values())
        if len(found) < 2 or not total:
            return {}
        return {
            f"source.{name}": f"{self.weights.get(name, 1):g} x {tokens:,} = {expected[name]:,.0f} tokens an epoch, "
            f"{expected[name] / total:.1%}"
            for name, tokens in found.items()
        }

    def require(self, least: int, what: str) -> None:
        """Raise HallmarkError if an epoch has fewer tokens than `least`, on average, which are needed for `what`."""
        total = sum(self.tokens().values())
        if total >= least:
            return
        if self.is_plain:
            raise HallmarkError(
                f"{total:.0f} tokens are too few for {what}",
                where="data/tokens",
                fix="give more text (of held-out text, more source.validation_share), or lower model.context_length",
            )
        raise HallmarkError(
            f"with these weights an epoch has {total:.4g} tokens, too few for {what}",
            where=SETTING,
            fix="raise a weight, or give more text",
        )

    def spans(self, length: int) -> Callable[[int], np.ndarray]:
        """The text of an epoch in spans, int64 (S, 2): first token and the one behind the last, by the epoch's number.

        Where a weight is no whole number, documents may be cut, at multiples of `length` tokens from their begin. What
        comes several times comes again when all that comes once has come.
        """
        if self.is_plain:
            whole = np.array([[0, len(self.shard.tokens)]], dtype=np.int64)
            return lambda _epoch: whole
        units_U2 = cut_documents(self.shard.offsets, length)
        counts = self.counts(units_U2)
        return lambda epoch: _join(units_U2, counts(epoch))

    def counts(self, units_U2: np.ndarray) -> Callable[[int], np.ndarray]:
        """How often each unit comes in an epoch, int64 (U,), by the number of the epoch, from 0 on.

        Args:
            units_U2: int64, each unit's first token and the one behind the last; none crosses the border of a document.
        """
        rings = list(self._rings(units_U2))

        def in_epoch(epoch: int) -> np.ndarray:
            counts_U = np.zeros(len(units_U2), dtype=np.int64)
            for ring in rings:
                counts_U[ring.places] = ring.counts(epoch)
            return counts_U

        return in_epoch

    def _rings(self, units_U2: np.ndarray) -> Iterator["_Ring"]:
        generator = np.random.default_rng([self.seed, 0, RING])
        order = generator.permutation(self.shard.documents)
        documents_U = np.searchsorted(self.shard.offsets, units_U2[:, 0], side="right") - 1
        sources_U, lengths_U = self.shard.document_sources[documents_U], units_U2[:, 1] - units_U2[:, 0]
        for source, weight in enumerate(self._weights):
            places = np.flatnonzero(sources_U == source)
            places = places[np.argsort(order[documents_U[places]], kind="stable")]  # a document's parts stay together
            ends = np.cumsum(lengths_U[places])
            if len(places):
                yield _Ring(places, ends - lengths_U[places], int(ends[-1]), weight)


@dataclass(frozen=True)
class _Ring:
    """One source's units in their order round the ring.

    Attributes:
        places: int64 (units,), which they are.
        begins: int64 (units,), where in the ring each begins.
        length: of the ring, in tokens.
        weight: how many times an epoch goes round it.
    """

    places: np.ndarray
    begins: np.ndarray
    length: int
    weight: Fraction

    def counts(self, epoch: int) -> np.ndarray:
        """How often the epoch meets each unit's begin."""
        first, last = (int(self.weight * number * self.length) for number in (epoch, epoch + 1))
        return (self.begins - first) // self.length - (self.begins - last) // self.length


def cut_documents(offsets: np.ndarray, length: int) -> np.ndarray:
    """int64 (U, 2): each document in parts of `length` tokens and the rest of it, in the order of the text."""
    begins, ends = offsets[:-1], offsets[1:]
    parts = -(-(ends - begins) // length)
    place_in_document_U = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    first_U = np.repeat(begins, parts) + length * place_in_document_U
    return np.stack((first_U, np.minimum(first_U + length, np.repeat(ends, parts))), axis=1)


def _join(units_U2: np.ndarray, counts_U: np.ndarray) -> np.ndarray:
    """int64 (S, 2): all units that come, then again those that come twice, and so on; neighbours are one span."""
    rounds = [units_U2[counts_U > number] for number in range(counts_U.max(initial=0))]
    every = np.concatenate(rounds) if rounds else units_U2[:0]
    jumps = np.flatnonzero(every[1:, 0] != every[:-1, 1]) + 1
    borders = np.concatenate(([0], jumps, [len(every)])) if len(every) else np.zeros(1, dtype=np.int64)
    return np.stack((every[borders[:-1], 0], every[borders[1:] - 1, 1]), axis=1)
