"""How each kind of task is evaluated."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.evaluation import classification, token_classification
from pipeline.evaluation.evaluation import Evaluation


@dataclass(frozen=True)
class KindEvaluation:
    """A kind's measuring on the test split.

    Attributes:
        evaluate: (rows, where, model, scratch, *, task, settings, seed) to an `Evaluation`.
        headline: its first figure in words, of its metrics.
    """

    evaluate: Callable[..., Evaluation]
    headline: Callable[[dict[str, Any]], str]


EVALUATIONS = {
    "classification": KindEvaluation(classification.evaluate_classification, classification.headline),
    "token_classification": KindEvaluation(
        token_classification.evaluate_token_classification, token_classification.headline
    ),
}
