"""A model that answers questions on the test split, beside its baselines."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.common.answers import Answer, answers_to_json
from pipeline.common.params import Evaluate, Task
from pipeline.evaluation.evaluation import Evaluation
from pipeline.evaluation.nearby_words import answer_by_nearby_words
from pipeline.evaluation.resampling import beside_baselines, sums_within
from pipeline.tasks.answer_metrics import ANSWERABLE, FIGURES, UNANSWERABLE, answer_figures, outcomes, score_all
from pipeline.tasks.question_answering import Answerer, draw_questions, read_answers
from pipeline.tasks.rows import of_split


def evaluate_question_answering(
    rows: pd.DataFrame,
    where: str,
    model: Answerer,
    scratch: Answerer,
    *,
    task: Task,
    settings: Evaluate,
    seed: int,
) -> Evaluation:
    """Measure a model and its baselines, which all learned from the same drawn questions.

    A resample draws contexts, each with all the questions about it: these are not independent of one another.

    Args:
        rows: the task's table.
        where: the file they come from, for messages.
        model: fine-tuned from pretrained weights.
        scratch: the same network, fine-tuned from random weights.

    Raises:
        HallmarkError: no test rows.
    """
    test = of_split(rows, "test", where)
    drawn, short = draw_questions(of_split(rows, "train", where), task.labels_per_class, seed)
    asked, truth = (test["pair"].tolist(), test["text"].tolist()), read_answers(test)
    given = model.predict(*asked)
    found: dict[str, list[Answer | None]] = {
        "predicted": [each.answer for each in given],
        "scratch": [each.answer for each in scratch.predict(*asked)],
        "nearby_words": answer_by_nearby_words(drawn["text"].tolist(), read_answers(drawn), *asked),
    }
    if not all(truth):
        found["no_answer"] = [None] * len(test)
    predictions = pd.DataFrame(
        {"id": test["id"].to_numpy(), "answers": test["answers"].to_numpy()}
        | {name: [answers_to_json([answer] if answer else []) for answer in own] for name, own in found.items()}
        | {"score": [each.score for each in given]}
    )
    scores = {name: score_all(own, truth) for name, own in found.items()}
    metrics: dict[str, Any] = {
        **_headlines(scores, asked[1], model.unspaced, settings, seed),
        **_by_kind(scores["predicted"], truth),
        **({"threshold": model.rules.threshold} if model.rules.unanswerable else {}),
        "labels_per_class": task.labels_per_class,
        "classes_with_too_few_texts": short,
        "train_rows": len(drawn),
        "test_rows": len(test),
    }
    confusion = pd.DataFrame(outcomes(found["predicted"], truth), columns=["label", "predicted"])
    return Evaluation(metrics, predictions, confusion)


def _headlines(
    scores: Mapping[str, np.ndarray], contexts: Sequence[str], unspaced: bool, settings: Evaluate, seed: int
) -> dict[str, Any]:
    """The figures with their intervals, and those of the baselines; over characters only where words have no spaces."""
    names = [name for name in FIGURES if unspaced or name != "character_f1"]
    by_context = {model: sums_within(own, contexts) for model, own in scores.items()}
    return beside_baselines(by_context, answer_figures, names, settings, seed)


def _by_kind(scores: np.ndarray, truth: Sequence[Sequence[Answer]]) -> dict[str, Any]:
    """The figures of the questions with and without an answer (HasAns and NoAns), where there are both."""
    answerable = np.array([bool(some) for some in truth])
    if answerable.all() or not answerable.any():
        return {}
    parts = {ANSWERABLE: scores[answerable], UNANSWERABLE: scores[~answerable]}
    return {
        kind: {name: float(value) for name, value in answer_figures(part.sum(axis=0)).items()}
        | {"questions": len(part)}
        for kind, part in parts.items()
    }
