"""A model of any number of labels for each text on the test split, beside its baselines."""

from typing import Any

import numpy as np
import pandas as pd

from pipeline.common.label_sets import labels_to_json
from pipeline.common.params import Evaluate, Task
from pipeline.evaluation.baselines import majority_of_each, predict_tfidf_of_each
from pipeline.evaluation.evaluation import Evaluation
from pipeline.evaluation.resampling import beside_baselines
from pipeline.tasks.label_set_metrics import (
    count_label_sets,
    indicators,
    label_set_figures,
    label_set_metrics,
    pair_labels,
)
from pipeline.tasks.multi_label_classification import (
    MultiLabelClassifier,
    draw_label_sets,
    known_set_labels,
    label_sets,
)
from pipeline.tasks.rows import of_split, texts_of

HEADLINES = ("macro_f1", "micro_f1", "subset_accuracy")
BASELINES = ("majority", "tfidf", "scratch")


def evaluate_multi_label_classification(
    rows: pd.DataFrame,
    where: str,
    model: MultiLabelClassifier,
    scratch: MultiLabelClassifier,
    *,
    task: Task,
    settings: Evaluate,
    seed: int,
) -> Evaluation:
    """Measure a model and its baselines, which all learned from the same drawn texts.

    Args:
        rows: the task's table.
        where: the file they come from, for messages.
        model: fine-tuned from pretrained weights.
        scratch: the same network, fine-tuned from random weights.

    Raises:
        HallmarkError: no test rows, or test labels that no training row has.
    """
    known_set_labels(rows, where)
    test = of_split(rows, "test", where)
    drawn, short = draw_label_sets(of_split(rows, "train", where), task.labels_per_class, seed)
    probabilities_NC = model.predict_probabilities(texts_of(test))
    learned_MC, truth_NC = (indicators(label_sets(table), model.labels) for table in (drawn, test))
    found = {
        "predicted": indicators(model.choose(probabilities_NC), model.labels),
        "majority": np.tile(majority_of_each(learned_MC), (len(test), 1)),
        "tfidf": predict_tfidf_of_each(texts_of(drawn), learned_MC, texts_of(test)),
        "scratch": indicators(scratch.predict(texts_of(test)), model.labels),
    }
    predictions = pd.DataFrame(
        {
            "id": test["id"].to_numpy(),
            "labels": test["labels"].to_numpy(),
            "predicted": _as_json(found["predicted"], model.labels),
            **{f"p_{label}": probabilities_NC[:, place] for place, label in enumerate(model.labels)},
            **{name: _as_json(found[name], model.labels) for name in BASELINES},
        }
    )
    counts = {name: count_label_sets(truth_NC, predicted_NC) for name, predicted_NC in found.items()}
    metrics: dict[str, Any] = {
        **label_set_metrics(counts["predicted"], model.labels),
        **beside_baselines(counts, lambda sums: label_set_figures(sums, len(test)), HEADLINES, settings, seed),
        "labels_per_class": task.labels_per_class,
        "classes_with_too_few_texts": short,
        "train_rows": len(drawn),
        "test_rows": len(test),
    }
    pairs = pair_labels(label_sets(test), model.choose(probabilities_NC))
    return Evaluation(metrics, predictions, pd.DataFrame(pairs, columns=["label", "predicted"]))


def _as_json(chosen_NC: np.ndarray, labels: list[str]) -> list[str]:
    return [labels_to_json(labels[place] for place in np.flatnonzero(row)) for row in chosen_NC]
