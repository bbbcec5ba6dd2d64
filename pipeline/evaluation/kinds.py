"""How each kind of task is evaluated."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.evaluation.classification import evaluate_classification
from pipeline.evaluation.evaluation import Evaluation
from pipeline.evaluation.multi_label_classification import evaluate_multi_label_classification
from pipeline.evaluation.question_answering import evaluate_question_answering
from pipeline.evaluation.token_classification import evaluate_token_classification


@dataclass(frozen=True)
class KindEvaluation:
    """A kind's measuring on the test split.

    Attributes:
        evaluate: (rows, where, model, scratch, *, task, settings, seed) to an `Evaluation`.
        leading: the key of its first figure in the metrics, and how it is called.
    """

    evaluate: Callable[..., Evaluation]
    leading: tuple[str, str]

    def headline(self, metrics: dict[str, Any]) -> str:
        """The leading figure in words."""
        key, name = self.leading
        figure = metrics[key]
        return f"{name} {figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


EVALUATIONS = {
    "classification": KindEvaluation(evaluate_classification, ("macro_f1", "macro-F1")),
    "multi_label_classification": KindEvaluation(evaluate_multi_label_classification, ("macro_f1", "macro-F1")),
    "token_classification": KindEvaluation(evaluate_token_classification, ("micro_f1", "span F1")),
    "question_answering": KindEvaluation(evaluate_question_answering, ("f1", "answer F1")),
}
