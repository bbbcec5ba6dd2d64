import random
from collections import Counter, defaultdict

import numpy as np
import pytest

from pipeline.common.errors import HallmarkError
from pipeline.evaluation import ngram
from pipeline.evaluation.ngram import (
    BITS,
    ORDER,
    START,
    NgramModel,
    count,
    count_texts,
    measure_ngram,
    merge_counts,
    weighted_mean,
)

Gram = tuple[int, ...]


def make_texts(seed: int, documents: int = 60) -> list[str]:
    """Text of few letters, so that grams repeat, and a little of anything."""
    generator = random.Random(seed)
    words = ["the", "then", "hen", "tea", "é", "中", "x1", ""]
    return [" ".join(generator.choices(words, k=generator.randrange(25))) for _ in range(documents)]


TRAIN, VALIDATION = make_texts(1), [*make_texts(2, 9), "zebra <|bos|>"]


def grams_of(texts: list[str], order: int = ORDER) -> list[Gram]:
    rows = [[START] * (ORDER - 1) + list(text.encode()) for text in texts]
    return [tuple(row[end - order : end]) for row in rows for end in range(ORDER, len(row) + 1)]


def packed(grams: list[Gram]) -> np.ndarray:
    return np.array(
        [sum(symbol << BITS * place for place, symbol in enumerate(gram[::-1])) for gram in grams], np.uint64
    )


class SlowNgramModel:
    """Interpolated modified Kneser-Ney as its definition reads, with dictionaries."""

    def __init__(self, texts: list[str]) -> None:
        self.counts = {ORDER: Counter(grams_of(texts))}
        for order in range(ORDER - 1, 0, -1):
            self.counts[order] = Counter(gram[1:] for gram in self.counts[order + 1])
        self.discounts = {order: self.estimate(list(counts.values())) for order, counts in self.counts.items()}
        self.followers: dict[int, dict[Gram, list[int]]] = {}
        for order, counts in self.counts.items():
            self.followers[order] = defaultdict(list)
            for gram, times in counts.items():
                self.followers[order][gram[:-1]].append(times)

    @staticmethod
    def estimate(counts: list[int]) -> list[float]:
        n1, n2, n3, n4 = (counts.count(times) for times in (1, 2, 3, 4))
        if 0 in (n1, n2, n3, n4):
            return [0.0, 0.5, 1.0, 1.5]
        y = n1 / (n1 + 2 * n2)
        found = [0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3]
        return [min(max(value, 0.0), float(times)) for times, value in enumerate(found)]

    def probability(self, gram: Gram) -> float:
        order = len(gram)
        if order == 0:
            return 1 / 256
        below = self.probability(gram[1:])
        followers = self.followers[order].get(gram[:-1])
        if followers is None:
            return below
        taken = [self.discounts[order][min(times, 3)] for times in followers]
        times = self.counts[order][gram]
        own = times - self.discounts[order][min(times, 3)]
        return (own + sum(taken) * below) / sum(followers)


def test_probabilities_are_the_definition_s() -> None:
    slow = SlowNgramModel(TRAIN)
    grams = [*grams_of(TRAIN), *grams_of(VALIDATION), *grams_of(["zebra", "\x00\xff"])]
    found = NgramModel(*count_texts(TRAIN)).probabilities(packed(grams))
    assert found == pytest.approx([slow.probability(gram) for gram in grams], rel=1e-12)


def test_probabilities_of_all_bytes_sum_to_one() -> None:
    model = NgramModel(*count_texts(TRAIN))
    contexts = np.unique(packed(grams_of([*TRAIN, "never seen before \x00"])) >> BITS)
    grams = (contexts[:, None] << BITS) | np.arange(256, dtype=np.uint64)
    probabilities = model.probabilities(grams.ravel()).reshape(-1, 256)
    assert (probabilities > 0).all()
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-12)


def test_bits_per_byte_count_every_byte_once() -> None:
    slow = SlowNgramModel(TRAIN)
    grams = grams_of(VALIDATION)
    figures = measure_ngram(iter(TRAIN), iter(VALIDATION))
    assert figures["validation_bytes"] == len("".join(VALIDATION).encode()) == len(grams)
    assert figures["training_bytes"] == len("".join(TRAIN).encode())
    assert figures["bits_per_byte"] == pytest.approx(np.mean([-np.log2(slow.probability(gram)) for gram in grams]))


@pytest.mark.parametrize("chunk_symbols", [1, 2, 7, 100])
def test_chunks_do_not_change_the_counts(monkeypatch: pytest.MonkeyPatch, chunk_symbols: int) -> None:
    expected = Counter(packed(grams_of(TRAIN)).tolist())
    monkeypatch.setattr(ngram, "CHUNK_SYMBOLS", chunk_symbols)
    grams, counts = count_texts(TRAIN)
    assert grams.tolist() == sorted(expected)
    assert dict(zip(grams.tolist(), counts.tolist(), strict=True)) == expected


def test_merging_adds_up() -> None:
    generator = np.random.default_rng(0)
    parts = [generator.integers(0, 50, size).astype(np.uint64) for size in (0, 1, 30, 5, 0, 200, 3)]
    merged, whole = merge_counts(count(part) for part in parts), count(np.concatenate(parts))
    np.testing.assert_array_equal(merged[0], whole[0])
    np.testing.assert_array_equal(merged[1], whole[1])


def test_no_text_is_refused() -> None:
    for silent in ([], [""]):
        with pytest.raises(HallmarkError, match="there is no validation text"):
            measure_ngram(TRAIN, silent)
        with pytest.raises(HallmarkError, match="there is no training text"):
            measure_ngram(silent, TRAIN)


def test_the_mean_does_not_depend_on_the_order_of_summation() -> None:
    generator = np.random.default_rng(0)
    values, counts = generator.exponential(size=10_001), generator.integers(1, 1000, 10_001)
    found = weighted_mean(values, counts)
    assert found == pytest.approx(float(values @ counts / counts.sum()), rel=1e-12)
    for _ in range(20):
        order = generator.permutation(len(values))
        assert weighted_mean(values[order], counts[order]) == found
