"""What a model of labelled spans has to beat on the same labels: logistic regression on words and their shapes."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from pipeline.common.scripts import WORD
from pipeline.common.spans import Span
from pipeline.tasks.tagging import AlignedText, align, best_tags, spans_of_tags, tag_tokens

NEAR = (-2, -1, 1, 2)
EDGE = "<edge>"


def predict_by_word_shapes(
    texts: Sequence[str], spans: Sequence[Sequence[Span]], unseen: Sequence[str], labels: Sequence[str]
) -> list[list[Span]]:
    """Learn the tag of each word from itself and its neighbours, and find the best valid tags of the unseen texts.

    One thread, and rows in the given order: the same texts always give the same spans.
    """
    learned = [cut_words(text) for text in texts]
    tags = [tag_tokens(words, own, labels) for words, own in zip(learned, spans, strict=True)]
    features = [row for text, words in zip(texts, learned, strict=True) for row in word_features(text, words)]
    found = [cut_words(text) for text in unseen]
    known = np.concatenate(tags)
    if len(np.unique(known)) < 2:
        return [[] for _ in unseen]
    vectorizer, regression = DictVectorizer(), LogisticRegression(C=1.0, max_iter=200)
    with threadpool_limits(limits=1):
        regression.fit(vectorizer.fit_transform(features), known)
        return [_spans(text, words, labels, vectorizer, regression) for text, words in zip(unseen, found, strict=True)]


def _spans(
    text: str, words: AlignedText, labels: Sequence[str], vectorizer: DictVectorizer, regression: LogisticRegression
) -> list[Span]:
    if not len(words.ids):
        return []
    scores_VK = np.full((len(words.ids), 1 + 2 * len(labels)), -1e9)  # of tags that were never seen
    scores_VK[:, regression.classes_] = regression.predict_log_proba(vectorizer.transform(word_features(text, words)))
    tags_V = best_tags(scores_VK, words.joined(whole_words=False))
    return [span for span, _ in spans_of_tags(words, tags_V, labels)]


def cut_words(text: str) -> AlignedText:
    places = [match.span() for match in WORD.finditer(text)]
    return align(text, [0] * len(places), places)


def word_features(text: str, words: AlignedText) -> list[dict[str, Any]]:
    """For each word: itself, its shape, beginnings and ends, and the words and shapes around it."""
    found = [text[start:end] for start, end in zip(words.starts_V, words.ends_V, strict=True)]
    shapes = [shape(word) for word in found]
    rows = []
    for place, word in enumerate(found):
        row: dict[str, Any] = {"word": word.lower(), "shape": shapes[place], "title": word.istitle()}
        row |= {f"begins{size}": word[:size].lower() for size in (1, 2, 3)}
        row |= {f"ends{size}": word[-size:].lower() for size in (1, 2, 3)}
        for step in NEAR:
            near = place + step
            inside = 0 <= near < len(found)
            row[f"word{step:+d}"] = found[near].lower() if inside else EDGE
            row[f"shape{step:+d}"] = shapes[near] if inside else EDGE
        rows.append(row)
    return rows


def shape(word: str) -> str:
    """`Rome2026` to `Xxd`: capitals, small letters, digits and other signs, each run once (Collins 2002)."""
    kinds = ("X" if c.isupper() else "d" if c.isdigit() else "x" if c.isalpha() else c for c in word)
    return re.sub(r"(.)\1+", r"\1", "".join(kinds))
