"""What served classifiers share: their requests and answers.

There is one file `pyfunc_*.py` for each form of them, which MLflow has to know from type hints.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel


class TextPair(BaseModel):
    """What is asked of a model of pairs: a text, and a second one that belongs to it."""

    text: str
    pair: str


class LabelAnswer(BaseModel):
    """What is said about one text or pair."""

    label: str
    probabilities: dict[str, float]


class LabelsAnswer(BaseModel):
    """What is said about one text or pair that may have any number of labels."""

    labels: list[str]
    probabilities: dict[str, float]


def answer_label(classifier: Any, texts: Sequence[Any]) -> list[LabelAnswer]:
    """Classify texts or pairs, each on its own: their order and number change no answer."""
    return [
        LabelAnswer(label=classifier.labels[int(row.argmax())], probabilities=_by_label(classifier, row))
        for row in classifier.predict_probabilities(texts)
    ]


def answer_labels(classifier: Any, texts: Sequence[Any]) -> list[LabelsAnswer]:
    """Give texts or pairs their labels, each on its own: their order and number change no answer."""
    probabilities_NC = classifier.predict_probabilities(texts)
    return [
        LabelsAnswer(labels=labels, probabilities=_by_label(classifier, row))
        for labels, row in zip(classifier.choose(probabilities_NC), probabilities_NC, strict=True)
    ]


def as_tuples(pairs: Sequence[TextPair]) -> list[tuple[str, str]]:
    return [(pair.text, pair.pair) for pair in pairs]


def _by_label(classifier: Any, row: Any) -> dict[str, float]:
    return {label: float(value) for label, value in zip(classifier.labels, row, strict=True)}
