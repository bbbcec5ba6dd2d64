"""Near-duplicates: found against exact Jaccard similarity, first ones kept, the same each time."""

import random

from pipeline.corpus.near_duplicates import first_of_their_kind

WORDS = [f"word{number}" for number in range(400)]


def make_text(seed: int, words: int = 120) -> list[str]:
    return random.Random(seed).choices(WORDS, k=words)


def test_unlike_texts_are_all_kept() -> None:
    assert all(first_of_their_kind(" ".join(make_text(seed)) for seed in range(300)))


def test_copies_in_other_case_layout_and_punctuation_go() -> None:
    text = make_text(1)
    texts = [" ".join(text), "\n".join(text).upper(), ", ".join(text) + "!", " ".join(make_text(2))]
    assert first_of_their_kind(texts) == [True, False, False, True]


def test_one_changed_word_in_a_long_text_is_a_near_duplicate() -> None:
    found = 0
    for seed in range(50):
        text = make_text(seed)
        changed = [*text[:60], "other", *text[61:]]  # 115 of 121 triples: similarity 0.95
        found += first_of_their_kind([" ".join(text), " ".join(changed)]) == [True, False]
    assert found == 50


def test_half_a_text_is_not_a_near_duplicate() -> None:
    for seed in range(50):
        text = make_text(seed)
        assert all(first_of_their_kind([" ".join(text), " ".join([*text[:60], *make_text(seed + 100, 60)])]))


def test_short_and_empty_texts_are_compared_too() -> None:
    assert first_of_their_kind(["one two", "One, two", "one", "", "  ", "三 个"]) == [
        True,
        False,
        True,
        True,
        False,
        True,
    ]
    assert first_of_their_kind([]) == []


def test_the_same_texts_give_the_same_answer() -> None:
    texts = [" ".join(make_text(seed % 40, 30)) for seed in range(100)]
    assert first_of_their_kind(texts) == first_of_their_kind(texts)
