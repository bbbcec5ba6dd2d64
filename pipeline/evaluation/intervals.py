"""Percentile bootstrap intervals of a classifier's figures.

Legend: N examples, C classes, K distinct (label, predicted) pairs, S resamples.

Drawing N examples with replacement is drawing the counts of the K pairs from a multinomial, so a resample costs
K numbers however many examples there are (Efron and Tibshirani 1993, chapter 13).
"""

from collections.abc import Iterator
from typing import TypedDict

import numpy as np

from pipeline.tasks.metrics import Figures, averaged_figures

NUMBERS_AT_ONCE = 2_000_000  # held by one block of resamples: 16 MB


class Interval(TypedDict):
    """A figure of the whole test set, and where its resamples lie."""

    value: float
    low: float
    high: float


def bootstrap_intervals(
    labels_N: np.ndarray, predicted_N: np.ndarray, classes: int, *, samples: int, confidence: float, seed: int
) -> dict[str, Interval]:
    """The figures of `pipeline.tasks.metrics.averaged_figures`, each with its interval.

    Args:
        labels_N, predicted_N: class numbers, int (N,), at least one example.
        classes: C.
        samples: S.
        confidence: share of the resamples that the interval holds.
        seed: decides the resamples.
    """
    pairs_K2, counts_K = np.unique(np.stack([labels_N, predicted_N], axis=1), axis=0, return_counts=True)
    whole = figures_of_counts(pairs_K2, counts_K[None, :], classes)
    blocks = [whole, *_resampled_figures(pairs_K2, counts_K, classes, samples, seed)]
    return {name: interval(np.concatenate([block[name] for block in blocks]), confidence) for name in whole}


def interval(values: np.ndarray, confidence: float) -> Interval:
    """The first value, of all examples, with the interval that holds this share of the others, of resamples."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(values[1:], [tail, 1 - tail])
    return {"value": float(values[0]), "low": float(low), "high": float(high)}


def figures_of_counts(pairs_K2: np.ndarray, counts_SK: np.ndarray, classes: int) -> Figures:
    """Every averaged figure, float64 (S,), from how often each (label, predicted) pair occurs in each resample."""
    one_hot_K2C = np.eye(classes)[pairs_K2]
    counts_SK = counts_SK.astype(np.float64)  # exact, and products of floats are fast
    labels_SC, predicted_SC = counts_SK @ one_hot_K2C[:, 0], counts_SK @ one_hot_K2C[:, 1]
    hits_SC = counts_SK @ (one_hot_K2C[:, 0] * one_hot_K2C[:, 1])
    return averaged_figures(hits_SC, labels_SC, predicted_SC)


def _resampled_figures(
    pairs_K2: np.ndarray, counts_K: np.ndarray, classes: int, samples: int, seed: int
) -> Iterator[Figures]:
    generator = np.random.default_rng(seed)
    examples = int(counts_K.sum())
    block = max(1, NUMBERS_AT_ONCE // max(len(counts_K), classes))
    for start in range(0, samples, block):
        drawn_SK = generator.multinomial(examples, counts_K / examples, size=min(block, samples - start))
        yield figures_of_counts(pairs_K2, drawn_SK, classes)
