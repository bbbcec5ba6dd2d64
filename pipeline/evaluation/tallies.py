"""What the answers of models to the same rows count: one function for each kind of task.

An answer is what predictions/TASK.parquet holds as "predicted": a label; labels, spans or answers as JSON; a text.
Everything is counted as `evaluate` counts it.

Legend: N texts, C labels, K kinds of texts that count alike, M models.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.common.answers import Answer, answers_from_json
from pipeline.common.dialogues import messages_from_json, through_last_answer
from pipeline.common.errors import HallmarkError
from pipeline.common.label_sets import labels_from_json
from pipeline.common.params import Task
from pipeline.common.spans import spans_from_json
from pipeline.evaluation.comparison import Tally
from pipeline.evaluation.resampling import sums_within
from pipeline.tasks.answer_metrics import answer_figures, are_unspaced, score_all
from pipeline.tasks.label_set_metrics import count_label_sets, indicators, label_set_figures
from pipeline.tasks.metrics import Figures, averaged_figures, class_numbers
from pipeline.tasks.span_metrics import NOTHING, count_spans, span_figures
from pipeline.tasks.text_metrics import FIGURES, count_texts, text_figures

Answers = Sequence[Any]  # of one model, (N,): texts; None where a dialogue is refused


def tally_labels(truth: Sequence[str], predicted: Sequence[Answers], classes: Sequence[str] | None = None) -> Tally:
    """Macro-F1 and accuracy.

    Args:
        truth, predicted: labels, the latter of each model.
        classes: macro-F1 is the mean over all of them; None: over every label that is true or predicted.

    Raises:
        HallmarkError: different lengths, or a label that is not among `classes`.
    """
    if any(len(column) != len(truth) for column in predicted):
        found = " and ".join(str(len(column)) for column in predicted)
        raise HallmarkError(f"{len(truth)} labels and {found} predictions cannot be compared")
    classes = sorted({*truth}.union(*predicted)) if classes is None else classes
    numbers_NM = np.stack([class_numbers(column, classes) for column in (truth, *predicted)], axis=1)
    kinds_KM, times_K = np.unique(numbers_NM, axis=0, return_counts=True)
    one_hot_MKC = np.eye(len(classes))[kinds_KM.T]
    true_KC = one_hot_MKC[0]
    counts = tuple(np.stack([true_KC * guessed_KC, true_KC, guessed_KC], axis=1) for guessed_KC in one_hot_MKC[1:])
    right = tuple(kinds_KM[:, 0] == guessed_K for guessed_K in kinds_KM.T[1:])
    return Tally(counts, _label_figures, ("macro_f1", "accuracy"), times_K, right)


def _label_figures(counts_S3C: np.ndarray) -> Figures:
    return averaged_figures(*(counts_S3C[:, place] for place in range(3)))


def tally_label_sets(truth: Sequence[str], predicted: Sequence[Answers]) -> Tally:
    """Macro-F1, and accuracy: the share of texts whose labels are all right and complete."""
    columns = [[labels_from_json(content) for content in column] for column in (truth, *predicted)]
    labels = sorted({label for column in columns for labels in column for label in labels}) or [NOTHING]
    truth_NC, *found = (indicators(column, labels) for column in columns)
    counts = tuple(count_label_sets(truth_NC, each_NC) for each_NC in found)

    def figures(sums: np.ndarray) -> Figures:
        own = label_set_figures(sums, len(truth))
        return {"macro_f1": own["macro_f1"], "accuracy": own["subset_accuracy"]}

    right = tuple(each[:, -1] == 1 for each in counts)
    return Tally(counts, figures, ("macro_f1", "accuracy"), _once(truth), right)


def tally_spans(truth: Sequence[str], predicted: Sequence[Answers]) -> Tally:
    """F1 of spans, and its mean over the labels."""
    right, *found = ([spans_from_json(content) for content in column] for column in (truth, *predicted))
    labels = sorted({span.label for column in (right, *found) for spans in column for span in spans}) or [NOTHING]
    counts = tuple(count_spans(right, spans, labels) for spans in found)
    return Tally(counts, span_figures, ("micro_f1", "macro_f1"), _once(truth))


def tally_answers(truth: Sequence[str], predicted: Sequence[Answers], contexts: Sequence[str]) -> Tally:
    """F1 and exact match of answers; a text counts with all questions about it, which are not independent.

    F1 over characters leads where most true answers are of a script without spaces.
    """
    right = [answers_from_json(content) for content in truth]
    found = ([_first(answers_from_json(content)) for content in column] for column in predicted)
    counts = tuple(sums_within(score_all(answers, right), contexts) for answers in found)
    shown = ("character_f1", "f1", "exact_match") if are_unspaced(right) else ("f1", "exact_match")
    return Tally(counts, answer_figures, shown, _once(set(contexts)))


def _first(answers: Sequence[Answer]) -> Answer | None:
    return answers[0] if answers else None


def tally_texts(truth: Sequence[str], predicted: Sequence[Answers], measure: str) -> Tally:
    """BLEU, chrF and ROUGE of written texts, `measure` before the others."""
    shown = (measure, *(name for name in FIGURES if name != measure))
    return Tally(tuple(count_texts(truth, written) for written in predicted), text_figures, shown, _once(truth))


def tally_dialogues(truth: Sequence[str], predicted: Sequence[Answers]) -> Tally:
    """How near the answers are to the true last ones of their dialogues (chrF), how many are these but for white space,
    and how many dialogues are answered at all: one that a model refuses (None) counts as answered with nothing.

    Token accuracy, which `evaluate` leads with, cannot be told from what a model says.
    """
    last = [through_last_answer(messages_from_json(content))[-1].content for content in truth]
    counts = []
    for answers in predicted:
        hits_N = [said is not None and said.split() == true.split() for said, true in zip(answers, last, strict=True)]
        is_answered_N = [said is not None for said in answers]
        written = count_texts(last, [said or "" for said in answers])
        counts.append(np.column_stack([hits_N, is_answered_N, np.ones(len(last)), written]))
    return Tally(tuple(counts), _dialogue_figures, ("chrf", "exact_answers", "answered"), _once(truth))


def _dialogue_figures(sums_SK: np.ndarray) -> Figures:
    hits_S, answered_S, dialogues_S = sums_SK[:, :3].T
    return {
        "chrf": text_figures(sums_SK[:, 3:])["chrf"],
        "exact_answers": hits_S / dialogues_S,
        "answered": answered_S / dialogues_S,
    }


def _once(texts: Sequence[str] | set[str]) -> np.ndarray:
    return np.ones(len(texts), dtype=np.int64)


@dataclass(frozen=True)
class Counted:
    """How the answers of a kind of task are counted.

    Attributes:
        truth: the column of what is true.
        tally: (truth, answers of each model, and what `more` gives) to a `Tally`.
        more: what else is counted by: (rows of the task's table, settings of the task) to arguments.
    """

    truth: str
    tally: Callable[..., Tally]
    more: Callable[[pd.DataFrame, Task], tuple[Any, ...]] = lambda rows, task: ()

    def count(self, rows: pd.DataFrame, predicted: Sequence[Answers], task: Task) -> Tally:
        """What the answers of each model to these rows count."""
        return self.tally(rows[self.truth].tolist(), predicted, *self.more(rows, task))


COUNTED = {
    "classification": Counted("label", tally_labels),
    "multi_label_classification": Counted("labels", tally_label_sets),
    "token_classification": Counted("spans", tally_spans),
    "question_answering": Counted("answers", tally_answers, lambda rows, task: (rows["text"].tolist(),)),
    "sequence_to_sequence": Counted("target", tally_texts, lambda rows, task: (task.measure,)),
    "dialogue": Counted("messages", tally_dialogues),
}
