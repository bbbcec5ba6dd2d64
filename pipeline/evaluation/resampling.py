"""Percentile bootstrap over texts, of any figures that follow from sums of counts per text.

Legend: N texts, S resamples. A resample draws N texts with replacement, so each text stays whole whatever is counted in
it (Efron and Tibshirani 1993, chapter 13). All models are resampled alike: their differences are paired.
"""

from collections.abc import Callable

import numpy as np

from pipeline.evaluation.intervals import NUMBERS_AT_ONCE
from pipeline.tasks.metrics import Figures


def resampled_figures(
    counts: np.ndarray, figures: Callable[[np.ndarray], Figures], *, samples: int, seed: int
) -> Figures:
    """Every figure, float64 (1 + S,): of all texts, then of each resample.

    Args:
        counts: numbers (N, ...), of each text.
        figures: of sums over texts, (S, ...) to float64 (S,) by name.
        samples: S.
        seed: decides the resamples; the same texts are drawn for the same N.
    """
    texts, shape = len(counts), counts.shape[1:]
    flat = counts.reshape(texts, -1).astype(np.float64)  # exact, and products of floats are fast
    generator = np.random.default_rng(seed)
    blocks = [figures(counts.sum(axis=0)[None].astype(np.float64))]
    block = max(1, NUMBERS_AT_ONCE // max(texts, flat.shape[1]))
    for start in range(0, samples, block):
        drawn_SN = generator.multinomial(texts, np.full(texts, 1 / texts), size=min(block, samples - start))
        blocks.append(figures((drawn_SN.astype(np.float64) @ flat).reshape(-1, *shape)))
    return {name: np.concatenate([found[name] for found in blocks]) for name in blocks[0]}
