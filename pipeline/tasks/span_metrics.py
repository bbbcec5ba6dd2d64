"""Figures of labelled spans, all from counts per text: precision, recall and F1, of each label and averaged.

A predicted span is right if start, end and label are those of a true one (exact match, as CoNLL's evaluation counts it;
Tjong Kim Sang and De Meulder 2003). The numbers are seqeval's in its strict mode, with 0 for a quotient of nothing.

Legend: N texts, C labels, S samples (one, or many resamples at once).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.common.spans import Span
from pipeline.tasks.metrics import Figures, per_class_figures

HITS, TRUE, PREDICTED = range(3)
NOTHING = "(none)"


def count_spans(truth: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]], labels: Sequence[str]) -> Any:
    """int64 (N, 3, C): for each text and label how many spans are hit, are true, and were predicted.

    Spans that are given twice count once.
    """
    places = {label: place for place, label in enumerate(labels)}
    counts_N3C = np.zeros((len(truth), 3, len(labels)), dtype=np.int64)
    for row, (right, found) in enumerate(zip(truth, predicted, strict=True)):
        right_set, found_set = set(right), set(found)
        for kind, spans in ((HITS, right_set & found_set), (TRUE, right_set), (PREDICTED, found_set)):
            for span in spans:
                counts_N3C[row, kind, places[span.label]] += 1
    return counts_N3C


def span_figures(counts_S3C: np.ndarray) -> Figures:
    """Precision, recall and F1, float64 (S,), averaged in three ways.

    micro: from the counts of all labels together. macro: the mean over the labels that are true or predicted anywhere.
    weighted: over the labels, by how many true spans they have.

    Returns:
        "micro_precision", "micro_recall", "micro_f1", "macro_precision", ..., "weighted_f1".
    """
    counts = [counts_S3C[..., kind, :] for kind in (HITS, TRUE, PREDICTED)]
    occurs_SC = (counts[TRUE] + counts[PREDICTED] > 0).astype(np.float64)
    micro = per_class_figures(*(count.sum(axis=-1, keepdims=True) for count in counts))
    figures: Figures = {}
    for name, values_SC in per_class_figures(*counts).items():
        figures[f"micro_{name}"] = micro[name][..., 0]
        figures[f"macro_{name}"] = _mean(values_SC, occurs_SC)
        figures[f"weighted_{name}"] = _mean(values_SC, counts[TRUE].astype(np.float64))
    return figures


def pair_spans(truth: Sequence[Sequence[Span]], predicted: Sequence[Sequence[Span]]) -> list[tuple[str, str]]:
    """(true label, predicted label) of all offsets that are true or predicted; `(none)` where one is missing."""
    pairs = []
    for right, found in zip(truth, predicted, strict=True):
        true, guessed = ({(span.start, span.end): span.label for span in spans} for spans in (right, found))
        pairs += [(true.get(place, NOTHING), guessed.get(place, NOTHING)) for place in sorted({*true, *guessed})]
    return pairs


def _mean(values_SC: np.ndarray, weights_SC: np.ndarray) -> np.ndarray:
    total_S = weights_SC.sum(axis=-1)
    sums_S = (values_SC * weights_SC).sum(axis=-1)
    return np.divide(sums_S, total_S, out=np.zeros(np.shape(total_S)), where=total_S > 0)


def span_metrics(counts_N3C: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """The figures of all texts together.

    Returns:
        "precision", "recall" and "f1", each {"micro", "macro", "weighted"}; "per_class":
        {LABEL: {"precision", "recall", "f1", "spans", "predicted"}}.
    """
    total_3C = counts_N3C.sum(axis=0)
    averaged, each = span_figures(total_3C), per_class_figures(*total_3C)
    return {
        **{
            name: {how: float(averaged[f"{how}_{name}"]) for how in ("micro", "macro", "weighted")}
            for name in ("precision", "recall", "f1")
        },
        "per_class": {
            label: {name: float(values[place]) for name, values in each.items()}
            | {"spans": int(total_3C[TRUE, place]), "predicted": int(total_3C[PREDICTED, place])}
            for place, label in enumerate(labels)
        },
    }
