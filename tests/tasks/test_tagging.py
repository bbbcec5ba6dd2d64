"""Spans to tags and back for every kind of tokenizer; decoding against all sequences there are; windows."""

from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.common.spans import Span
from pipeline.tasks.tagging import AlignedText, align, best_tags, is_inside_word, spans_of_tags, tag_tokens
from pipeline.tasks.text_windows import cut_windows
from pipeline.tokenization.tokenizer import Tokenizer
from pipeline.tokenization.training import train_tokenizer

TEXT = "Anna saw  New York, 北京 and Zoë's café 😀 .\n\n  The End"
FOUND = ["Anna", "New York", "北京", "Zoë", "café", "😀", "The End"]
LABELS = ["a", "b"]
KINDS = ["bpe", "wordpiece", "unigram", "bytes", "characters"]


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return train_tokenizer([TEXT * 20], request.param, 320)


def aligned(tokenizer: Tokenizer, text: str) -> AlignedText:
    [(ids, offsets)] = tokenizer.encode_with_offsets([text])
    assert ids == tokenizer.encode(text)
    return align(text, ids, offsets)


def test_every_kind_of_tokenizer_gives_spans_back(tokenizer: Tokenizer) -> None:
    spans = [Span(TEXT.index(words), TEXT.index(words) + len(words), LABELS[n % 2]) for n, words in enumerate(FOUND)]
    text = aligned(tokenizer, TEXT)
    if "北" not in {TEXT[start] for start in text.starts_V} or any(
        start < place < end for place in (20, 22) for start, end in zip(text.starts_V, text.ends_V, strict=True)
    ):
        pytest.fail("the two characters are one token with their surroundings")
    tags = tag_tokens(text, spans, LABELS)
    assert [span for span, _ in spans_of_tags(text, tags, LABELS)] == spans
    one_hot = np.full((len(tags), 5), -10.0)
    one_hot[np.arange(len(tags)), tags] = 0.0
    for whole_words in (False, True):
        assert (best_tags(one_hot, text.joined(whole_words)) == tags).all()


def test_touching_spans_of_one_label_stay_two(tokenizer: Tokenizer) -> None:
    spans = [Span(10, 13, "a"), Span(14, 18, "a")]
    text = aligned(tokenizer, TEXT)
    assert [span for span, _ in spans_of_tags(text, tag_tokens(text, spans, LABELS), LABELS)] == spans


def test_a_token_of_white_space_has_no_tag_and_a_character_has_one_place() -> None:
    text = aligned(train_tokenizer(["x"], "bytes", 293), "a  é")
    assert text.places_V.tolist() == [0, 3, 4]
    assert text.starts_V.tolist() == [0, 3, 3]
    assert text.same_character_V.tolist() == [False, False, True]


def test_words_hold_together_and_chinese_characters_do_not() -> None:
    assert is_inside_word("café", 3)
    assert is_inside_word("e\u0301t", 1)
    assert not is_inside_word("it's", 2)
    assert not is_inside_word("北京", 1)
    assert not is_inside_word("a", 0)


def is_valid(tags: tuple[int, ...], joined: np.ndarray) -> bool:
    for place, tag in enumerate(tags):
        before = tags[place - 1] if place else 0
        inside = tag > 0 and tag % 2 == 0
        if inside and (place == 0 or before not in (tag, tag - 1)):
            return False
        if joined[place] and place and not inside and (tag != 0 or before != 0):
            return False
    return True


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 2))
def test_decoding_finds_the_best_of_all_valid_sequences(seed: int, steps: int, labels: int) -> None:
    generator = np.random.default_rng(seed)
    scores, joined = generator.normal(size=(steps, 1 + 2 * labels)), generator.random(steps) < 0.3
    joined[0] = False
    valid = [tags for tags in product(range(1 + 2 * labels), repeat=steps) if is_valid(tags, joined)]
    best = max(valid, key=lambda tags: sum(scores[place, tag] for place, tag in enumerate(tags)))
    assert tuple(best_tags(scores, joined)) == best


def test_a_text_without_tokens_has_no_tags() -> None:
    assert best_tags(np.zeros((0, 3)), np.zeros(0, dtype=bool)).shape == (0,)


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(7, 40), st.booleans())
@example(100, 8, False)
def test_each_token_is_taken_once_from_where_it_has_most_context(length: int, size: int, causal: bool) -> None:
    windows = cut_windows(length, size, causal)
    assert [place for w in windows for place in range(w.first, w.last)] == list(range(length))
    assert all(w.stop - w.start == min(size, length) and w.start <= w.first <= w.last <= w.stop for w in windows)

    def context(start: int, stop: int, place: int) -> float:
        before = place - start if start else np.inf
        behind = stop - 1 - place if stop < length else np.inf
        return before if causal else min(before, behind)

    for window in windows:
        for place in range(window.first, window.last):
            others = [context(w.start, w.stop, place) for w in windows if w.start <= place < w.stop]
            assert context(window.start, window.stop, place) == max(others)
