"""A linear-chain CRF on words and their shapes, by CRFsuite (Lafferty, McCallum and Pereira 2001; Okazaki 2007)."""

import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.common.spans import Span
from pipeline.evaluation.word_shapes import word_features
from pipeline.tasks.tagging import AlignedText, align, spans_of_tags, tag_tokens

WORD = re.compile(r"\S+")  # the words of CoNLL files, which stand between spaces
ITERATIONS = 100
L1, L2 = 0.0, 0.1  # chosen on validation


def predict_by_crf(
    texts: Sequence[str], spans: Sequence[Sequence[Span]], unseen: Sequence[str], labels: Sequence[str]
) -> list[list[Span]]:
    """Learn the tags of words from their features and from the tags beside them, and find the unseen texts' spans.

    An I that follows no B or I of its label is no span, as seqeval's strict mode reads it.
    """
    import pycrfsuite

    trainer = pycrfsuite.Trainer(algorithm="lbfgs", verbose=False)
    trainer.set_params({"c1": L1, "c2": L2, "max_iterations": ITERATIONS, "feature.possible_transitions": True})
    for text, own in zip(texts, spans, strict=True):
        words = split_words(text)
        trainer.append(list(_features(text, words)), [str(tag) for tag in tag_tokens(words, own, labels)])
    tagger = pycrfsuite.Tagger()
    with tempfile.TemporaryDirectory(prefix="hallmark-benchmark-") as folder:
        path = str(Path(folder) / "crf")
        trainer.train(path)
        tagger.open(path)
    found = []
    for text in unseen:
        words = split_words(text)
        tags_V = np.array(tagger.tag(list(_features(text, words))), dtype=np.int64)
        found.append([span for span, _ in spans_of_tags(words, tags_V, labels)])
    return found


def split_words(text: str) -> AlignedText:
    places = [match.span() for match in WORD.finditer(text)]
    return align(text, [0] * len(places), places)


def _features(text: str, words: AlignedText) -> Iterator[dict[str, Any]]:
    for row in word_features(text, words):
        yield {"bias": 1.0, **row}
