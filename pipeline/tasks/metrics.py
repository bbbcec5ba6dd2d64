"""Figures of a classifier, all from counts: accuracy, precision, recall and F1, averaged in three ways.

Legend: N examples, C classes, S samples (one, or many resamples at once).

A quotient of nothing by nothing (no example of a class, or none predicted) counts as 0, as in scikit-learn with
`zero_division=0` and all class names given.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.common.errors import HallmarkError, allowed

Figures = dict[str, np.ndarray]


def class_numbers(labels: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    """The place of each label among `classes`, int64 (N,). Raises HallmarkError for a label that is not there."""
    places = {name: place for place, name in enumerate(classes)}
    if unknown := sorted(set(labels) - set(places)):
        raise HallmarkError(f"unknown label {unknown[0]!r}; {allowed(classes)}")
    return np.fromiter((places[label] for label in labels), dtype=np.int64, count=len(labels))


def confusion_matrix(labels_N: np.ndarray, predicted_N: np.ndarray, classes: int) -> np.ndarray:
    """int64 (C, C): how often the class of the row was taken for the class of the column."""
    cells = np.bincount(labels_N * classes + predicted_N, minlength=classes * classes)
    return cells.reshape(classes, classes)


def per_class_figures(hits_SC: np.ndarray, labels_SC: np.ndarray, predicted_SC: np.ndarray) -> Figures:
    """Precision, recall and F1 of every class, float64 (S, C), from how often it was hit, occurs, and was predicted."""
    return {
        "precision": _quotient(hits_SC, predicted_SC),
        "recall": _quotient(hits_SC, labels_SC),
        "f1": _quotient(2 * hits_SC, labels_SC + predicted_SC),
    }


def averaged_figures(hits_SC: np.ndarray, labels_SC: np.ndarray, predicted_SC: np.ndarray) -> Figures:
    """Accuracy of examples with one label each, and the figures of `average_classes`, float64 (S,)."""
    return {
        "accuracy": _quotient(hits_SC.sum(axis=-1), labels_SC.sum(axis=-1)),
        **average_classes(hits_SC, labels_SC, predicted_SC),
    }


def average_classes(hits_SC: np.ndarray, labels_SC: np.ndarray, predicted_SC: np.ndarray) -> Figures:
    """Precision, recall and F1 averaged over the classes, float64 (S,).

    macro: the mean over the classes. weighted: weighted by how often each occurs. micro: from the counts of all
    classes together, which is the accuracy where every example has one label.

    Returns:
        "macro_precision", "micro_precision", "weighted_precision", "macro_recall", ...
    """
    figures: Figures = {}
    weights_SC = _quotient(labels_SC, labels_SC.sum(axis=-1)[..., None])
    together = per_class_figures(*(counts_SC.sum(axis=-1) for counts_SC in (hits_SC, labels_SC, predicted_SC)))
    for name, values_SC in per_class_figures(hits_SC, labels_SC, predicted_SC).items():
        figures[f"macro_{name}"] = values_SC.mean(axis=-1)
        figures[f"micro_{name}"] = together[name]
        figures[f"weighted_{name}"] = (values_SC * weights_SC).sum(axis=-1)
    return figures


def describe_averages(averaged: Figures) -> dict[str, dict[str, float]]:
    """One sample's figures of `average_classes` as {"precision": {"macro", "micro", "weighted"}, "recall", "f1"}."""
    return {
        name: {how: float(averaged[f"{how}_{name}"]) for how in ("macro", "micro", "weighted")}
        for name in ("precision", "recall", "f1")
    }


def classification_metrics(labels: Sequence[str], predicted: Sequence[str], classes: Sequence[str]) -> dict[str, Any]:
    """Compare predicted with true labels.

    Args:
        labels, predicted: (N,) each, in the same order.
        classes: every label that may occur, in the order of the confusion matrix; macro averages are over all of them.

    Returns:
        "accuracy"; "precision", "recall" and "f1", each {"macro", "micro", "weighted"}; "per_class":
        {CLASS: {"precision", "recall", "f1", "rows"}}; "confusion": a list of rows, true by predicted.

    Raises:
        HallmarkError: no examples, different lengths, or a label that is not among `classes`.
    """
    if len(labels) != len(predicted) or len(labels) == 0:
        raise HallmarkError(f"{len(labels)} labels and {len(predicted)} predictions cannot be compared")
    confusion = confusion_matrix(class_numbers(labels, classes), class_numbers(predicted, classes), len(classes))
    counts = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    averaged, each = averaged_figures(*counts), per_class_figures(*counts)
    return {
        "accuracy": float(averaged["accuracy"]),
        **describe_averages(averaged),
        "per_class": {
            label: {name: float(values[place]) for name, values in each.items()} | {"rows": int(counts[1][place])}
            for place, label in enumerate(classes)
        },
        "confusion": confusion.tolist(),
    }


def _quotient(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    part, whole = np.broadcast_arrays(np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64))
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)
