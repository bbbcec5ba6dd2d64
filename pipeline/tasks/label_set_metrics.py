"""Figures of texts with any number of labels each, all from counts per text.

The numbers are scikit-learn's for an indicator matrix, with 0 for a quotient of nothing.

Legend: N texts, C labels, S samples (one, or many resamples at once), K = 3C + 1 counts.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.common.errors import HallmarkError, allowed
from pipeline.tasks.metrics import Figures, average_classes, describe_averages, per_class_figures
from pipeline.tasks.span_metrics import NOTHING


def indicators(sets: Sequence[Sequence[str]], labels: Sequence[str]) -> np.ndarray:
    """bool (N, C): which labels each text has. Raises HallmarkError for a label that is not there."""
    places = {name: place for place, name in enumerate(labels)}
    if unknown := sorted({name for names in sets for name in names} - set(places)):
        raise HallmarkError(f"unknown label {unknown[0]!r}; {allowed(labels)}")
    found_NC = np.zeros((len(sets), len(labels)), dtype=bool)
    for row, names in enumerate(sets):
        found_NC[row, [places[name] for name in names]] = True
    return found_NC


def count_label_sets(truth_NC: np.ndarray, predicted_NC: np.ndarray) -> np.ndarray:
    """int64 (N, K): for each text which labels are hit, are true, were predicted; and whether all of it is right."""
    exact_N1 = (truth_NC == predicted_NC).all(axis=1, keepdims=True)
    return np.concatenate([truth_NC & predicted_NC, truth_NC, predicted_NC, exact_N1], axis=1).astype(np.int64)


def label_set_figures(counts_SK: np.ndarray, texts: int) -> Figures:
    """Subset accuracy (the share of texts whose labels are all right and complete), and the figures of
    `pipeline.tasks.metrics.average_classes`, float64 (S,).

    Args:
        counts_SK: of `count_label_sets`, summed over texts.
        texts: N.
    """
    return {
        "subset_accuracy": counts_SK[..., -1] / texts,
        **average_classes(*np.split(counts_SK[..., :-1], 3, axis=-1)),
    }


def pair_labels(truth: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    """(true label, predicted label) of all labels that are true or predicted; `(none)` where one of the two is not."""
    pairs = []
    for right, found in zip(truth, predicted, strict=True):
        for label in sorted({*right, *found}):
            pairs.append((label if label in right else NOTHING, label if label in found else NOTHING))
    return pairs


def label_set_metrics(counts_NK: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """The figures of all texts together.

    Returns:
        "precision", "recall" and "f1", each {"macro", "micro", "weighted"}; "per_class":
        {LABEL: {"precision", "recall", "f1", "rows", "predicted"}}.
    """
    total_K = counts_NK.sum(axis=0)
    _, true_C, predicted_C = parts = np.split(total_K[:-1], 3)
    each = per_class_figures(*parts)
    return {
        **describe_averages(average_classes(*parts)),
        "per_class": {
            label: {name: float(values[place]) for name, values in each.items()}
            | {"rows": int(true_C[place]), "predicted": int(predicted_C[place])}
            for place, label in enumerate(labels)
        },
    }
