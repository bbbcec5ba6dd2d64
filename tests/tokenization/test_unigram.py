"""Unigram learning against its definition: every way to read a word, one by one."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tokenization import unigram
from pipeline.tokenization.unigram import LONGEST_PIECE, learn_pieces

WORDS = st.dictionaries(st.text("abc", min_size=1, max_size=7).map(str.encode), st.integers(1, 5), max_size=6)


def readings(word: bytes, pieces: set[bytes]) -> Iterator[list[bytes]]:
    if not word:
        yield []
    for size in range(1, len(word) + 1):
        if word[:size] in pieces:
            yield from ([word[:size], *rest] for rest in readings(word[size:], pieces))


def seed(counted: dict[bytes, int]) -> tuple[list[bytes], unigram.Lattice]:
    return unigram._seed(list(counted), np.array(list(counted.values()), dtype=np.int64), 1000)


@given(WORDS)
def test_seeds_are_the_substrings_seen_twice(counted: dict[bytes, int]) -> None:
    seen: Counter[bytes] = Counter()
    for word, count in counted.items():
        for start in range(len(word)):
            for end in range(start + 2, len(word) + 1):
                seen[word[start:end]] += count
    pieces, _ = seed(counted)
    assert pieces[:256] == [bytes([byte]) for byte in range(256)]
    assert set(pieces[256:]) == {substring for substring, count in seen.items() if count >= 2}
    assert len(set(pieces)) == len(pieces)


@given(WORDS.filter(bool), st.integers(0, 100))
def test_expected_counts_are_sums_over_all_readings(counted: dict[bytes, int], number: int) -> None:
    pieces, lattice = seed(counted)
    probability = np.random.default_rng(number).dirichlet(np.ones(len(pieces)))
    chance = dict(zip(pieces, probability.tolist(), strict=True))
    expected: Counter[bytes] = Counter()
    for word, count in counted.items():
        ways = [(reading, np.prod([chance[piece] for piece in reading])) for reading in readings(word, set(pieces))]
        total = sum(weight for _, weight in ways)
        for reading, weight in ways:
            for piece in reading:
                expected[piece] += count * weight / total
    weights = np.array(list(counted.values()), dtype=np.float64)
    found = unigram._expected_counts(lattice, weights, probability)
    assert found.tolist() == pytest.approx([expected[piece] for piece in pieces], rel=1e-9, abs=1e-12)


def test_the_loss_of_a_piece_is_that_of_its_best_other_reading() -> None:
    pieces = [*(bytes([byte]) for byte in range(256)), b"ab", b"bc", b"abc"]
    probability = np.full(259, 1 / 1024)
    probability[ord("a")], probability[256:] = 1 / 8, [1 / 16, 1 / 4, 1 / 2]
    expected = np.full(259, 3.0)
    loss = unigram._losses(pieces, expected, probability)
    assert loss[258] == pytest.approx(3 * np.log((1 / 2) / (1 / 8 * 1 / 4)), abs=1e-5)  # a + bc beats ab + c
    assert loss[256] == pytest.approx(3 * np.log((1 / 16) / (1 / 8 * 1 / 1024)), abs=1e-5)


def test_pieces_of_a_lattice_can_be_left_out() -> None:
    counted = {b"abab": 3, b"ba": 2}
    pieces, lattice = seed(counted)
    kept = np.array([piece != b"ab" for piece in pieces])
    smaller = lattice.select(kept)
    names = [piece for piece in pieces if piece != b"ab"]
    used = {names[number] for _, _, column in smaller.groups for number in column.tolist()}
    assert used == {b"a", b"b", b"ba", b"aba", b"bab", b"abab"}


def test_words_that_occur_often_become_pieces() -> None:
    words = [b"hallmark", b"hall", b"mark", b"\xe4\xb8\xad" * 30]
    learned = dict(learn_pieces(words, np.array([50, 40, 30, 20]), 262))
    assert len(learned) <= 262
    assert {bytes([byte]) for byte in range(256)} < set(learned)
    assert {b"hall", b"mark"} <= set(learned)
    assert max(map(len, learned)) <= LONGEST_PIECE
    assert sum(np.exp(list(learned.values()))) == pytest.approx(1, abs=1e-3)


def test_no_words_give_the_bytes() -> None:
    assert sorted(piece for piece, _ in learn_pieces([], np.zeros(0, dtype=np.int64), 300)) == [
        bytes([byte]) for byte in range(256)
    ]
