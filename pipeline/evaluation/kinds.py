"""How each kind of task is evaluated."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.evaluation.classification import evaluate_classification
from pipeline.evaluation.dialogue import evaluate_dialogue
from pipeline.evaluation.evaluation import Evaluation
from pipeline.evaluation.multi_label_classification import evaluate_multi_label_classification
from pipeline.evaluation.question_answering import evaluate_question_answering
from pipeline.evaluation.sequence_to_sequence import evaluate_sequence_to_sequence
from pipeline.evaluation.token_classification import evaluate_token_classification
from pipeline.tasks.text_metrics import FIGURES


@dataclass(frozen=True)
class KindEvaluation:
    """A kind's measuring on the test split.

    Attributes:
        evaluate: (rows, where, model, scratch, *, task, settings, seed) to an `Evaluation`.
        leading: the key of its first figure in the metrics, and how it is called.
        choices: figures of which the task chooses the leading one (its `measure`), by their keys.
    """

    evaluate: Callable[..., Evaluation]
    leading: tuple[str, str]
    choices: Mapping[str, str] = field(default_factory=dict)

    def lead(self, metrics: dict[str, Any]) -> tuple[str, str]:
        """Key and name of the figure that leads in these metrics."""
        chosen = metrics.get("measure", "")
        return (chosen, self.choices[chosen]) if chosen in self.choices else self.leading

    def headline(self, metrics: dict[str, Any]) -> str:
        """The leading figure in words."""
        key, name = self.lead(metrics)
        figure = metrics[key]
        return f"{name} {figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


EVALUATIONS = {
    "classification": KindEvaluation(evaluate_classification, ("macro_f1", "macro-F1")),
    "multi_label_classification": KindEvaluation(evaluate_multi_label_classification, ("macro_f1", "macro-F1")),
    "token_classification": KindEvaluation(evaluate_token_classification, ("micro_f1", "span F1")),
    "question_answering": KindEvaluation(evaluate_question_answering, ("f1", "answer F1")),
    "sequence_to_sequence": KindEvaluation(evaluate_sequence_to_sequence, ("chrf", "chrF"), FIGURES),
    "dialogue": KindEvaluation(evaluate_dialogue, ("token_accuracy", "token accuracy")),
}
