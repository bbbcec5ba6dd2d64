"""A fine-tuned classifier on the test split, beside its baselines."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from pipeline.common.params import Evaluate, Task
from pipeline.evaluation.baselines import majority_label, predict_tfidf
from pipeline.evaluation.comparison import compare, find_discordant
from pipeline.evaluation.evaluation import Evaluation
from pipeline.evaluation.intervals import bootstrap_intervals
from pipeline.evaluation.tallies import tally_labels
from pipeline.tasks.classification import Classifier, known_labels
from pipeline.tasks.metrics import class_numbers, classification_metrics
from pipeline.tasks.rows import draw_labels, of_split, texts_of

HEADLINES = ("accuracy", "macro_f1")
BASELINES = ("majority", "tfidf", "scratch")


def evaluate_classification(
    rows: pd.DataFrame,
    where: str,
    classifier: Classifier,
    scratch: Classifier,
    *,
    task: Task,
    settings: Evaluate,
    seed: int,
) -> Evaluation:
    """Measure a classifier and its baselines, which all learned from the same drawn labels.

    Args:
        rows: the task's table.
        where: the file they come from, for messages.
        classifier: fine-tuned from pretrained weights.
        scratch: the same network, fine-tuned from random weights.

    Raises:
        HallmarkError: no test rows, or test labels that no training row has.
    """
    known_labels(rows, where)
    train, test = of_split(rows, "train", where), of_split(rows, "test", where)
    drawn, short = draw_labels(train, task.labels_per_class, seed)
    probabilities_NC = classifier.predict_probabilities(texts_of(test))
    predictions = pd.DataFrame(
        {
            "id": test["id"].to_numpy(),
            "label": test["label"].to_numpy(),
            "predicted": [classifier.labels[place] for place in probabilities_NC.argmax(axis=1)],
            **{f"p_{label}": probabilities_NC[:, place] for place, label in enumerate(classifier.labels)},
            "majority": majority_label(drawn["label"].tolist(), train["label"].tolist()),
            "tfidf": predict_tfidf(texts_of(drawn), drawn["label"].tolist(), texts_of(test)),
            "scratch": scratch.predict(texts_of(test)),
        }
    )
    metrics = {
        **_figures(predictions, classifier.labels, settings, seed),
        "baselines": {name: _baseline(predictions, name, classifier.labels, settings, seed) for name in BASELINES},
        "labels_per_class": task.labels_per_class,
        "classes_with_too_few_texts": short,
        "train_rows": len(drawn),
        "test_rows": len(test),
    }
    return Evaluation(metrics, predictions, predictions[["label", "predicted"]])


def _figures(predictions: pd.DataFrame, classes: list[str], settings: Evaluate, seed: int) -> dict[str, Any]:
    found = classification_metrics(predictions["label"].tolist(), predictions["predicted"].tolist(), classes)
    del found["confusion"]  # it follows from the predictions, and no metric is a table
    return found | _headlines(predictions, "predicted", classes, settings, seed)


def _headlines(
    predictions: pd.DataFrame, column: str, classes: list[str], settings: Evaluate, seed: int
) -> dict[str, Any]:
    intervals = bootstrap_intervals(
        _numbers(predictions, "label", classes),
        _numbers(predictions, column, classes),
        len(classes),
        samples=settings.bootstrap_samples,
        confidence=settings.confidence,
        seed=seed,
    )
    return {name: dict(intervals[name]) for name in HEADLINES}


def _numbers(predictions: pd.DataFrame, column: str, classes: list[str]) -> np.ndarray:
    return class_numbers(predictions[column].tolist(), classes)


def _baseline(
    predictions: pd.DataFrame, column: str, classes: list[str], settings: Evaluate, seed: int
) -> dict[str, Any]:
    """The baseline's headline figures, and by how much the model leads on the same texts (paired bootstrap)."""
    said = [predictions[name].tolist() for name in (column, "predicted")]
    tally = tally_labels(predictions["label"].tolist(), said, classes)
    alpha, samples = 1 - settings.confidence, settings.bootstrap_samples
    compared = compare(tally, alpha=alpha, margin=0.0, samples=samples, seed=seed)
    return {
        **_headlines(predictions, column, classes, settings, seed),
        "lead_macro_f1": asdict(compared.difference),
        "p_value_accuracy": find_discordant(tally).p_value,
    }
