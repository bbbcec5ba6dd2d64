"""Percentile bootstrap over texts, of any figures that follow from sums of counts per text.

Legend: N texts, S resamples. A resample draws N texts with replacement, so each text stays whole whatever is counted in
it (Efron and Tibshirani 1993, chapter 13). All models are resampled alike: their differences are paired.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.common.params import Evaluate
from pipeline.evaluation.intervals import NUMBERS_AT_ONCE, interval
from pipeline.tasks.metrics import Figures


def resampled_figures(
    counts: np.ndarray,
    figures: Callable[[np.ndarray], Figures],
    *,
    samples: int,
    seed: int,
    times: np.ndarray | None = None,
) -> Figures:
    """Every figure, float64 (1 + S,): of all texts, then of each resample.

    Args:
        counts: numbers (N, ...), of each text, or of each kind of texts that count alike.
        figures: of sums over texts, (S, ...) to float64 (S,) by name.
        samples: S.
        seed: decides the resamples; the same texts are drawn for the same N and `times`.
        times: how many texts there are of each kind, int (N,); None: one. Few kinds make large test sets cheap.
    """
    rows, shape = len(counts), counts.shape[1:]
    times_N = np.ones(rows) if times is None else times.astype(np.float64)
    flat = counts.reshape(rows, -1).astype(np.float64)  # exact, and products of floats are fast
    generator, texts = np.random.default_rng(seed), times_N.sum()
    blocks = [figures((times_N[:, None] * flat).sum(axis=0).reshape(1, *shape))]
    block = max(1, NUMBERS_AT_ONCE // max(rows, flat.shape[1]))
    for start in range(0, samples, block):
        drawn_SN = generator.multinomial(int(texts), times_N / texts, size=min(block, samples - start))
        blocks.append(figures((drawn_SN.astype(np.float64) @ flat).reshape(-1, *shape)))
    return {name: np.concatenate([found[name] for found in blocks]) for name in blocks[0]}


def sums_within(counts: np.ndarray, owners: Sequence[str]) -> np.ndarray:
    """float64 (M, K): counts (N, K) of parts that belong together, such as the questions about a text, as one.

    Args:
        owners: what each part belongs to, (N,), M different ones.
    """
    places, _ = pd.factorize(np.array(owners, dtype=object))
    sums = np.zeros((places.max() + 1, counts.shape[1]))
    np.add.at(sums, places, counts)
    return sums


def beside_baselines(
    counts: Mapping[str, np.ndarray],
    figures: Callable[[np.ndarray], Figures],
    names: Sequence[str],
    settings: Evaluate,
    seed: int,
    *,
    alone: Sequence[str] = (),
    leads: Sequence[str] | None = None,
) -> dict[str, Any]:
    """The figures of a model and, under "baselines", those of others, all with intervals, and by how much it leads.

    Args:
        counts: of the model, as "predicted", and of each baseline: see `resampled_figures`.
        figures: of sums of counts.
        names: the figures to give.
        alone: those of the model that baselines need not have, where it has them.
        leads: the figures whose leads are given, paired on the same texts, as "lead_NAME"; None: all of `names`.
    """
    resampled = {
        name: resampled_figures(each, figures, samples=settings.bootstrap_samples, seed=seed)
        for name, each in counts.items()
    }
    own, confidence = resampled.pop("predicted"), settings.confidence
    leads = names if leads is None else leads
    return {name: interval(own[name], confidence) for name in (*names, *alone) if name in own} | {
        "baselines": {
            baseline: {name: interval(theirs[name], confidence) for name in names}
            | {f"lead_{name}": interval(own[name] - theirs[name], confidence) for name in leads}
            for baseline, theirs in resampled.items()
        }
    }
