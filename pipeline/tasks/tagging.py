"""Spans of characters to tags of tokens and back: alignment by offsets, and decoding that can only give valid spans.

Tags are BIO: 0 is O, 1 + 2k is B of label k, 2 + 2k is I of label k (Ramshaw and Marcus 1995, as IOB2).

Legend: V visible tokens of a text, C labels, K = 1 + 2C tags.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.common.scripts import UNSPACED
from pipeline.common.spans import Span
from pipeline.tokenization.tokenizer import Tokenizer

OUTSIDE = 0
MOST_SPLIT_WORDS = 0.01  # share of what is learned that may begin or end inside a word where words stay whole
# Scripts that put no spaces between words: each of their characters may begin a span.
NO_SPACES = re.compile(f"[{UNSPACED}]")


@dataclass(frozen=True)
class AlignedText:
    """The tokens of a text that have a visible character; the others stand for white space and get no tag.

    Attributes:
        ids: of all tokens, without special ones.
        places_V: int64, which of `ids` are visible.
        starts_V, ends_V: int64, the characters that each stands for, without white space around.
        same_character_V, same_word_V: bool, whether it goes on inside the character, or word, of the one before.
    """

    ids: list[int]
    places_V: np.ndarray
    starts_V: np.ndarray
    ends_V: np.ndarray
    same_character_V: np.ndarray
    same_word_V: np.ndarray

    def joined(self, whole_words: bool) -> np.ndarray:
        """bool (V,): where a token can only go on with what the one before it is."""
        return self.same_character_V | self.same_word_V if whole_words else self.same_character_V


def align(text: str, ids: list[int], offsets: Sequence[tuple[int, int]]) -> AlignedText:
    """Put the tokens of `text` beside its characters; `ids` and `offsets` are of `Tokenizer.encode_with_offsets`."""
    rows = []
    last_start = last_end = -1
    for place, (start, end) in enumerate(offsets):
        while start < end and text[start].isspace():
            start += 1
        while start < end and text[end - 1].isspace():
            end -= 1
        if start == end:
            continue
        same_word = start == last_end and is_inside_word(text, start)
        rows.append((place, start, end, last_start <= start < last_end, same_word))
        last_start, last_end = start, max(end, last_end)
    columns = np.array(rows, dtype=np.int64).reshape(-1, 5).T
    return AlignedText(ids, *columns[:3], *columns[3:].astype(bool))


def encode_texts(texts: Sequence[str], tokenizer: Tokenizer) -> list[AlignedText]:
    found = tokenizer.encode_with_offsets(list(texts))
    return [align(text, ids, offsets) for text, (ids, offsets) in zip(texts, found, strict=True)]


def words_stay_whole(places: Iterable[tuple[str, int, int]]) -> bool:
    """Whether what is learned stands between words, but for a little: then nothing predicted may cut a word, either.

    Args:
        places: a text each, and where what is learned of it begins and ends.
    """
    cuts = [is_inside_word(text, start) or is_inside_word(text, end) for text, start, end in places]
    return sum(cuts) <= MOST_SPLIT_WORDS * len(cuts)


def is_inside_word(text: str, place: int) -> bool:
    """Whether a word stands on both sides of `place`: letters, digits and marks, of a script with spaces."""
    return 0 < place < len(text) and _is_of_word(text[place - 1]) and _is_of_word(text[place])


def _is_of_word(character: str) -> bool:
    is_word = character.isalnum() or character == "_" or unicodedata.category(character).startswith("M")
    return is_word and not NO_SPACES.match(character)


def tag_tokens(aligned: AlignedText, spans: Sequence[Span], labels: Sequence[str]) -> np.ndarray:
    """int64 (V,): the tag of each visible token. One in two spans belongs to the one it shares most with."""
    tags_V = np.zeros(len(aligned.places_V), dtype=np.int64)
    shared_V = np.zeros(len(tags_V), dtype=np.int64)
    places = {label: place for place, label in enumerate(labels)}
    for span in sorted(spans):
        overlap_V = np.minimum(aligned.ends_V, span.end) - np.maximum(aligned.starts_V, span.start)
        own = np.flatnonzero((overlap_V > 0) & (overlap_V > shared_V))
        if not len(own):
            continue
        shared_V[own] = overlap_V[own]
        tags_V[own] = 2 + 2 * places[span.label]
        tags_V[own[0]] -= 1
    return tags_V


def spans_of_tags(aligned: AlignedText, tags_V: np.ndarray, labels: Sequence[str]) -> list[tuple[Span, slice]]:
    """The spans of a valid sequence of tags, each with its visible tokens."""
    begins = np.flatnonzero(tags_V % 2 == 1)
    found = []
    for begin in begins.tolist():
        end = begin + 1
        while end < len(tags_V) and tags_V[end] == tags_V[begin] + 1:
            end += 1
        label = labels[(int(tags_V[begin]) - 1) // 2]
        stop = int(aligned.ends_V[begin:end].max())
        found.append((Span(int(aligned.starts_V[begin]), stop, label), slice(begin, end)))
    return found


def best_tags(scores_VK: np.ndarray, joined_V: np.ndarray) -> np.ndarray:
    """The valid sequence of tags with the largest sum of scores, int64 (V,), by Viterbi's algorithm (Viterbi 1967).

    Valid: I of a label comes after B or I of the same label only. Where `joined_V`, a token also goes on with what the
    one before it is: I after B or I, O after O.

    Args:
        scores_VK: log-probabilities of the tags.
        joined_V: see `AlignedText.joined`; the first can be joined to nothing.
    """
    steps, tags = scores_VK.shape
    best_K = np.full(tags, -np.inf)
    came_from_VK = np.zeros((steps, tags), dtype=np.int64)
    begin, inside = np.arange(1, tags, 2), np.arange(2, tags, 2)
    for step in range(steps):
        before_K, best_K = best_K, np.full(tags, -np.inf)
        if step == 0:
            best_K[OUTSIDE], best_K[begin] = 0.0, 0.0
        else:
            goes_on_C = before_K[inside] >= before_K[begin]
            came_from_VK[step, inside] = np.where(goes_on_C, inside, begin)
            best_K[inside] = np.where(goes_on_C, before_K[inside], before_K[begin])
            source = OUTSIDE if joined_V[step] else int(before_K.argmax())
            came_from_VK[step] = np.where(np.isin(np.arange(tags), inside), came_from_VK[step], source)
            best_K[OUTSIDE] = before_K[source]
            if not joined_V[step]:
                best_K[begin] = before_K[source]
        best_K = best_K + scores_VK[step]
    path_V = np.zeros(steps, dtype=np.int64)
    if steps:
        path_V[-1] = best_K.argmax()
    for step in range(steps - 1, 0, -1):
        path_V[step - 1] = came_from_VK[step, path_V[step]]
    return path_V
