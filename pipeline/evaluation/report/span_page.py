"""The page of labelled spans: what is taken for what, and the worst mistakes."""

import json
from typing import Any

import pandas as pd

from pipeline.common.params import Task
from pipeline.common.spans import Span, spans_from_json
from pipeline.evaluation.report.findings import SCRATCH, WORST, KindPage, Words, confusions
from pipeline.tasks.span_metrics import NOTHING, pair_spans
from pipeline.tasks.token_classification import draw_texts

AROUND = 60  # characters shown before and behind a span
TOKEN_CLASSIFICATION = Words(
    {"micro_f1": "span F1", "macro_f1": "macro-F1"},
    {"scratch": SCRATCH, "word_shapes": "word shapes + logistic regression"},
    ("word_shapes", "logistic regression", "logistic regression on word shapes and the same labels"),
    "micro_f1",
)


def span_findings(predictions: pd.DataFrame, rows: pd.DataFrame, config: dict[str, Any]) -> dict[str, Any]:
    pairs = confusions(span_pairs(predictions), [*config["labels"], NOTHING])
    return {"confusions": pairs, "mistakes": worst_spans(predictions, rows)}


def span_pairs(predictions: pd.DataFrame) -> pd.DataFrame:
    """label, predicted: see `pipeline.tasks.span_metrics.pair_spans`."""
    both = [[spans_from_json(content) for content in predictions[column]] for column in ("spans", "predicted")]
    return pd.DataFrame(pair_spans(*both), columns=["label", "predicted"])


def span_counts(rows: pd.DataFrame, labels: list[str], task: Task, seed: int) -> list[dict[str, Any]]:
    """Spans of each label by split, and how many stand in the texts that were drawn to train on."""
    drawn, _ = draw_texts(rows[rows["split"] == "train"], task.labels_per_class, seed)
    tables = {split: rows[rows["split"] == split] for split in ("train", "validation", "test")} | {"used": drawn}
    counts = {name: _label_counts(table) for name, table in tables.items()}
    return [{"label": label, **{name: counts[name].get(label, 0) for name in tables}} for label in labels]


def _label_counts(rows: pd.DataFrame) -> dict[str, int]:
    labels = [span.label for content in rows["spans"] for span in spans_from_json(content)]
    return {str(label): int(count) for label, count in pd.Series(labels, dtype="str").value_counts().items()}


def worst_spans(predictions: pd.DataFrame, rows: pd.DataFrame) -> list[dict[str, Any]]:
    """The wrong spans that the model was surest of, each with the text around it and what is true there."""
    texts = rows.set_index("id")["text"]
    wrong = []
    for row in predictions.to_dict("records"):
        right = spans_from_json(row["spans"])
        for span, score in zip(spans_from_json(row["predicted"]), row["scores"], strict=True):
            if span not in right:
                wrong.append((-score, row["id"], span, _true_there(span, right)))
    return [
        {
            "id": name,
            "label": label,
            "predicted": span.label,
            "certainty": f"with probability {-score:.3f}",
            "text": _around(texts[name], span),
        }
        for score, name, span, label in sorted(wrong)[:WORST]
    ]


def _true_there(span: Span, right: list[Span]) -> str:
    """The true spans that share a character with this one."""
    there = [true for true in right if true.start < span.end and span.start < true.end]
    return ", ".join(f"{true.label} {true.start}-{true.end}" for true in there) or NOTHING


def _around(text: str, span: Span) -> str:
    before, behind = text[max(0, span.start - AROUND) : span.start], text[span.end : span.end + AROUND]
    return f"{before}[{json.dumps(text[span.start : span.end], ensure_ascii=False)[1:-1]}]{behind}"


SPAN_PAGE = KindPage(TOKEN_CLASSIFICATION, span_findings, span_counts)
