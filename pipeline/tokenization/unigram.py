"""Learning a Unigram vocabulary over bytes: Kudo 2018, arXiv:1804.10959, section 3.2.

Every word is the concatenation of pieces drawn independently; the vocabulary is the set of pieces under which the text
is most probable. Start with many frequent substrings, fit their probabilities by expectation-maximisation, leave out
those that the text needs least, and repeat until few enough are left.

Learned here and not by `tokenizers`, whose trainer reads words in a random order: scores and ids changed from run to
run. Sums here have one order, so the same words give the same pieces.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LONGEST_PIECE = 16  # bytes
LONGEST_WORD = 32  # bytes; longer ones are learned from in parts
SEEDS_PER_PIECE = 6  # frequent substrings to begin with, per piece wished
KEPT_SHARE = 0.6  # of the pieces, in each round
STEPS_PER_ROUND = 2  # of expectation-maximisation
DECIMALS = 6  # of scores and losses: below, processors differ


@dataclass(frozen=True)
class Lattice:
    """Every way to read some byte strings as pieces: a node before and behind each byte, an edge per piece that fits.

    Attributes:
        groups: the edges by the place in its string where they end, first places first; each (3, E) int32 of the nodes
            where they start and end, and of their pieces.
        first, last: int64 (strings,): the outer nodes of each string.
    """

    groups: list[np.ndarray]
    first: np.ndarray
    last: np.ndarray

    @property
    def nodes(self) -> int:
        return int(self.last[-1]) + 1 if len(self.last) else 0

    def select(self, is_kept: np.ndarray) -> "Lattice":
        """The lattice of the pieces with `is_kept` (bool (P,)), numbered anew in their order."""
        number = np.cumsum(is_kept, dtype=np.int32) - 1
        kept = [edges[:, is_kept[edges[2]]] for edges in self.groups]
        return Lattice([np.stack([start, end, number[piece]]) for start, end, piece in kept], self.first, self.last)


def learn_pieces(words: Sequence[bytes], counts: np.ndarray, size: int) -> list[tuple[bytes, float]]:
    """Learn at most `size` pieces, the 256 bytes among them.

    Args:
        words: distinct words.
        counts: int64 (words,): how often each occurs.
        size: pieces wished, 256 or more.

    Returns:
        (piece, natural logarithm of its probability), the most probable first.
    """
    words, counts = _split_long(words, counts)
    pieces, lattice = _seed(words, counts, SEEDS_PER_PIECE * size)
    is_byte = np.array([len(piece) == 1 for piece in pieces])
    weights = counts.astype(np.float64)
    probability = np.full(len(pieces), 1 / len(pieces))
    expected, probability = _fit(lattice, weights, probability, is_byte)
    while len(pieces) > size:
        loss = _losses(pieces, expected, probability)
        loss[is_byte] = np.inf
        kept = np.sort(np.argsort(-loss, kind="stable")[: max(size, int(KEPT_SHARE * len(pieces)))])
        is_kept = np.zeros(len(pieces), dtype=bool)
        is_kept[kept] = loss[kept] > 0
        lattice = lattice.select(is_kept)
        pieces = [piece for piece, keep in zip(pieces, is_kept.tolist(), strict=True) if keep]
        is_byte = is_byte[is_kept]
        probability = probability[is_kept] / probability[is_kept].sum()
        expected, probability = _fit(lattice, weights, probability, is_byte)
    used = np.flatnonzero(probability)
    scores = np.round(np.log(probability[used]), DECIMALS).tolist()
    scored = zip((pieces[place] for place in used.tolist()), scores, strict=True)
    return sorted(scored, key=lambda pair: (-pair[1], pair[0]))


def _split_long(words: Sequence[bytes], counts: np.ndarray) -> tuple[list[bytes], np.ndarray]:
    parts: dict[bytes, int] = {}
    for word, count in zip(words, counts.tolist(), strict=True):
        for start in range(0, len(word), LONGEST_WORD):
            part = word[start : start + LONGEST_WORD]
            parts[part] = parts.get(part, 0) + count
    return list(parts), np.array(list(parts.values()), dtype=np.int64)


def _nodes(strings: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """uint8 (nodes,): the byte behind each node (0 at the end of a string); int64 (strings,): first and last nodes."""
    behind = np.frombuffer(b"".join(string + b"\0" for string in strings), dtype=np.uint8)
    last = np.cumsum([len(string) + 1 for string in strings], dtype=np.int64) - 1
    return behind, np.concatenate([[0], last[:-1] + 1])[: len(strings)].astype(np.int64), last


def _seed(words: Sequence[bytes], counts: np.ndarray, most: int) -> tuple[list[bytes], Lattice]:
    """The 256 bytes and the `most` substrings, seen twice or more, that stand for most text; and their lattice."""
    behind, first, last = _nodes(words)
    lengths = last - first + 1
    room = np.repeat(last, lengths) - np.arange(len(behind))  # bytes from each node to the end of its word
    weight = np.repeat(counts, lengths)
    start = np.flatnonzero(room >= 1)
    found = behind[start].astype(np.int64)  # the substring that begins at each start, as a number per length
    pieces = [bytes([byte]) for byte in range(256)]
    gains = [np.full(256, np.iinfo(np.int64).max)]
    edges = [(start, start + 1, found)]
    for length in range(2, LONGEST_PIECE + 1):
        longer = room[start] >= length
        start, found = start[longer], found[longer]
        keys, found = np.unique(found << 8 | behind[start + length - 1], return_inverse=True)
        totals = np.bincount(found, weights=weight[start], minlength=len(keys)).astype(np.int64)
        is_repeated = totals >= 2
        keep = is_repeated[found]
        start, found = start[keep], (np.cumsum(is_repeated) - 1)[found[keep]]
        if not len(start):
            break
        _, example = np.unique(found, return_index=True)
        edges.append((start, start + length, found + len(pieces)))
        pieces += [behind[place : place + length].tobytes() for place in start[example].tolist()]
        gains.append(totals[is_repeated] * length)
    order = np.argsort(-np.concatenate(gains), kind="stable")
    is_kept = np.zeros(len(pieces), dtype=bool)
    is_kept[order[: 256 + most]] = True
    kept = [piece for piece, keep in zip(pieces, is_kept.tolist(), strict=True) if keep]
    depth = np.arange(len(behind)) - np.repeat(first, lengths)
    return kept, _group(edges, depth, first, last).select(is_kept)


def _group(edges: Sequence[tuple[np.ndarray, ...]], depth: np.ndarray, first: np.ndarray, last: np.ndarray) -> Lattice:
    rows = [np.stack(columns).astype(np.int32) for columns in edges]
    whole = np.concatenate(rows, axis=1) if rows else np.zeros((3, 0), dtype=np.int32)
    ends_at = depth[whole[1]]
    order = np.argsort(ends_at, kind="stable")
    borders = np.searchsorted(ends_at[order], np.arange(1, depth.max(initial=0) + 2))
    groups = np.split(whole[:, order], borders[1:-1], axis=1) if len(borders) > 1 else []
    return Lattice(groups, first, last)


def _fit(
    lattice: Lattice, weights: np.ndarray, probability: np.ndarray, is_byte: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Expected counts and probabilities of the pieces, float64 (P,), after `STEPS_PER_ROUND` steps."""
    expected = probability
    for _ in range(STEPS_PER_ROUND):
        expected = _expected_counts(lattice, weights, probability)
        probability = _normalise(expected, is_byte)
    return expected, probability


def _expected_counts(lattice: Lattice, weights: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """float64 (P,): how often each piece is used, over all ways to read each word, by their probability.

    The forward-backward algorithm, over all words at once. Words are short enough not to underflow.
    """
    forward = np.zeros(lattice.nodes)
    forward[lattice.first] = 1.0
    for start, end, piece in lattice.groups:
        np.add.at(forward, end, forward[start] * probability[piece])
    backward = np.zeros(lattice.nodes)
    backward[lattice.last] = weights / forward[lattice.last]
    expected = np.zeros(len(probability))
    for start, end, piece in reversed(lattice.groups):
        passed = probability[piece] * backward[end]
        np.add.at(backward, start, passed)
        np.add.at(expected, piece, passed * forward[start])
    return expected


def _normalise(expected: np.ndarray, is_byte: np.ndarray) -> np.ndarray:
    """The probabilities with the prior that favours few pieces: counts are discounted by 1/2.

    The variational step is exp(digamma(count)), which is count - 1/2 but for small counts. Bytes are never discounted
    to nothing, since they must read any text.
    """
    discounted = np.maximum(expected - 0.5, np.where(is_byte, 0.5, 0.0))
    return discounted / discounted.sum()


def _losses(pieces: Sequence[bytes], expected: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """float64 (P,): the logarithm of probability that the text loses if a piece is read as its best other pieces."""
    lattice = _lattice_of(pieces)
    best = np.zeros(lattice.nodes)
    best[lattice.first] = 1.0
    for start, end, piece in lattice.groups:
        np.maximum.at(best, end, best[start] * probability[piece])
    with np.errstate(divide="ignore", invalid="ignore"):
        loss = expected * (np.log(probability) - np.log(best[lattice.last]))
    return np.where(probability > 0, np.round(loss, DECIMALS), 0.0)


def _lattice_of(pieces: Sequence[bytes]) -> Lattice:
    """The ways to read each piece as two or more others."""
    number = {piece: place for place, piece in enumerate(pieces)}
    behind, first, last = _nodes(pieces)
    edges = [
        (node + start, node + end, found)
        for node, piece in zip(first.tolist(), pieces, strict=True)
        for start in range(len(piece))
        for end in range(start + 1, len(piece) + 1)
        if (found := number.get(piece[start:end])) is not None and end - start < len(piece)
    ]
    depth = np.arange(len(behind)) - np.repeat(first, last - first + 1)
    columns = np.array(edges, dtype=np.int32).reshape(-1, 3).T
    return _group([tuple(columns)], depth, first, last)
