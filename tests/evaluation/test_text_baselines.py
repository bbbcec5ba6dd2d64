"""Baselines of written texts, and the bands of the table beside them."""

import numpy as np

from pipeline.evaluation.sequence_to_sequence import length_bands, score_bands
from pipeline.evaluation.text_baselines import first_sentence, nearest_targets


def test_the_first_sentence_is_the_text_where_there_is_one() -> None:
    assert first_sentence("A dog runs") == "A dog runs"
    assert first_sentence(" A dog runs. It barks!") == "A dog runs."
    assert first_sentence("他跑了。她来了。") == "他跑了。"
    assert first_sentence("def f():\n    pass") == "def f():"
    assert first_sentence(" ") == ""


def test_the_nearest_text_gives_its_target() -> None:
    texts = ["a red dog", "a blue cat", "two red cats", "a blue dog"]
    found = nearest_targets(texts, ["ein Hund", "eine Katze", "zwei Katzen", "Hund"], ["the blue cat", "red dog"] * 200)
    assert found == ["eine Katze", "ein Hund"] * 200


def test_bands_hold_every_text_once_and_sort_by_length() -> None:
    texts = ["x" * length for length in [1, 2, 3, 4, 50, 60, 70, 800, 900, 1000]]
    bands = length_bands(texts)
    assert bands == sorted(bands)
    assert 2 <= len(set(bands)) <= 4
    assert all(int(band[:4]) <= len(text) <= int(band[8:12]) for text, band in zip(texts, bands, strict=True))
    assert length_bands(["ab"] * 3) == ["2 to 2 characters"] * 3
    assert score_bands(np.array([0.0, 19.9, 20.0, 100.0])) == [
        "chrF 000 to 020", "chrF 000 to 020", "chrF 020 to 040", "chrF 080 to 100",
    ]  # fmt: skip
