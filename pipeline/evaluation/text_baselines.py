"""What a model that writes texts has to beat: what it is given, and what others have written."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.evaluation.baselines import learn_features

SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n+")
ROWS_AT_ONCE = 256


def first_sentence(text: str) -> str:
    """The first sentence (or line) of a text; of one sentence, the text itself."""
    return next((part.strip() for part in SENTENCE_END.split(text) if part.strip()), "")


def nearest_targets(texts: Sequence[str], targets: Sequence[str], unseen: Sequence[str]) -> list[str]:
    """For each unseen text the target of the known text that is most like it, by the cosine of TF-IDF of 1-2-grams.

    Of texts that are equally like it the first is taken.
    """
    vectorizer, known = learn_features(texts)
    asked: Any = vectorizer.transform(list(unseen))
    found: list[str] = []
    for first in range(0, len(unseen), ROWS_AT_ONCE):
        likeness = (asked[first : first + ROWS_AT_ONCE] @ known.T).toarray()
        found += [targets[place] for place in np.argmax(likeness, axis=1)]
    return found
