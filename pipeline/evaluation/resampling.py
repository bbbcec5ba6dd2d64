"""Percentile bootstrap over texts, of any figures that follow from sums of counts per text.

Legend: N texts, S resamples. A resample draws N texts with replacement, so each text stays whole whatever is counted in
it (Efron and Tibshirani 1993, chapter 13). All models are resampled alike: their differences are paired.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.common.params import Evaluate
from pipeline.evaluation.intervals import NUMBERS_AT_ONCE, interval
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
