"""A model of labelled spans on the test split, beside its baselines."""

from typing import Any

import pandas as pd

from pipeline.common.params import Evaluate, Task
from pipeline.common.spans import spans_to_json
from pipeline.evaluation.evaluation import Evaluation
from pipeline.evaluation.resampling import beside_baselines
from pipeline.evaluation.word_shapes import predict_by_word_shapes
from pipeline.tasks.rows import of_split
from pipeline.tasks.span_metrics import count_spans, pair_spans, span_figures, span_metrics
from pipeline.tasks.token_classification import TokenLabeller, draw_texts, known_span_labels, read_spans

HEADLINES = ("micro_f1", "macro_f1")
BASELINES = ("word_shapes", "scratch")


def evaluate_token_classification(
    rows: pd.DataFrame,
    where: str,
    model: TokenLabeller,
    scratch: TokenLabeller,
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
    known_span_labels(rows, where)
    test = of_split(rows, "test", where)
    drawn, short = draw_texts(of_split(rows, "train", where), task.labels_per_class, seed)
    texts, truth = test["text"].tolist(), read_spans(test)
    scored = model.predict_scored(texts)
    found = {
        "predicted": [[each.span for each in spans] for spans in scored],
        "word_shapes": predict_by_word_shapes(drawn["text"].tolist(), read_spans(drawn), texts, model.labels),
        "scratch": scratch.predict(texts),
    }
    predictions = pd.DataFrame(
        {
            "id": test["id"].to_numpy(),
            "spans": [spans_to_json(spans) for spans in truth],
            "predicted": [spans_to_json(spans) for spans in found["predicted"]],
            "scores": [[each.score for each in spans] for spans in scored],
            **{name: [spans_to_json(spans) for spans in found[name]] for name in BASELINES},
        }
    )
    counts = {name: count_spans(truth, spans, model.labels) for name, spans in found.items()}
    metrics: dict[str, Any] = {
        **span_metrics(counts["predicted"], model.labels),
        **beside_baselines(counts, span_figures, HEADLINES, settings, seed),
        "labels_per_class": task.labels_per_class,
        "classes_with_too_few_texts": short,
        "train_rows": len(drawn),
        "test_rows": len(test),
    }
    return Evaluation(
        metrics, predictions, pd.DataFrame(pair_spans(truth, found["predicted"]), columns=["label", "predicted"])
    )
