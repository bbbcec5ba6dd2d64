"""A model that writes texts on the test split, beside its baselines."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.common.params import Evaluate, Task
from pipeline.evaluation.evaluation import Evaluation
from pipeline.evaluation.resampling import beside_baselines
from pipeline.evaluation.text_baselines import first_sentence, nearest_targets
from pipeline.tasks.rows import draw_rows, of_split
from pipeline.tasks.text_metrics import FIGURES, count_texts, signatures, text_figures
from pipeline.tasks.text_writer import TextWriter

BASELINES = ("lead", "nearest", "scratch")
LENGTH_BANDS, SCORE_BAND = 4, 20


def evaluate_sequence_to_sequence(
    rows: pd.DataFrame,
    where: str,
    model: TextWriter,
    scratch: TextWriter,
    *,
    task: Task,
    settings: Evaluate,
    seed: int,
) -> Evaluation:
    """Measure a model and its baselines, which all learned from the same drawn pairs.

    Figures are of all texts together. Their intervals draw whole texts with replacement, the same ones for every model
    (paired bootstrap, Koehn 2004, Statistical significance tests for machine translation evaluation).

    Args:
        rows: the task's table.
        where: the file they come from, for messages.
        model: fine-tuned from pretrained weights.
        scratch: the same network, fine-tuned from random weights.

    Raises:
        HallmarkError: no test rows.
    """
    test = of_split(rows, "test", where)
    drawn = draw_rows(of_split(rows, "train", where), task.labels_per_class, seed)
    texts, truth = test["text"].tolist(), test["target"].tolist()
    written = {
        "predicted": model.predict(texts),
        "lead": [first_sentence(text) for text in texts],
        "nearest": nearest_targets(drawn["text"].tolist(), drawn["target"].tolist(), texts),
        "scratch": scratch.predict(texts),
    }
    counts = {name: count_texts(truth, found) for name, found in written.items()}
    scores_N = text_figures(counts["predicted"])["chrf"]  # of each text alone
    metrics: dict[str, Any] = {
        **beside_baselines(counts, text_figures, list(FIGURES), settings, seed),
        "measure": task.measure,
        "signatures": signatures(truth),
        "labels_per_class": task.labels_per_class,
        "train_rows": len(drawn),
        "test_rows": len(test),
    }
    predictions = pd.DataFrame(
        {
            "id": test["id"].to_numpy(),
            "target": truth,
            "predicted": written["predicted"],
            "chrf": scores_N,
            **{name: written[name] for name in BASELINES},
        }
    )
    bands = pd.DataFrame({"label": length_bands(texts), "predicted": score_bands(scores_N)})
    return Evaluation(metrics, predictions, bands)


def length_bands(texts: Sequence[str]) -> list[str]:
    """Texts by their characters in a few bands of about as many texts: `12 to 40 characters`."""
    lengths_N = np.array([len(text) for text in texts])
    borders = np.unique(np.quantile(lengths_N, np.linspace(0, 1, LENGTH_BANDS + 1), method="nearest"))
    bands_N = np.searchsorted(borders[1:-1], lengths_N, side="right")
    digits = len(str(borders[-1]))  # bands then sort by length
    ranges = [(lengths_N[bands_N == band].min(), lengths_N[bands_N == band].max()) for band in np.unique(bands_N)]
    names = {band: f"{low:0{digits}} to {high:0{digits}} characters" for band, (low, high) in enumerate(ranges)}
    return [names[place] for place in np.unique(bands_N, return_inverse=True)[1]]


def score_bands(scores_N: np.ndarray) -> list[str]:
    """`chrF 040 to 060` and the like."""
    lows = np.minimum(scores_N // SCORE_BAND * SCORE_BAND, 100 - SCORE_BAND).astype(int)
    return [f"chrF {low:03} to {low + SCORE_BAND:03}" for low in lows]
