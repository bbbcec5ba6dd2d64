"""The page of a classification: what is taken for what, and the worst mistakes."""

from typing import Any

import pandas as pd

from pipeline.common.params import Task
from pipeline.evaluation.report.findings import SCRATCH, WORST, KindPage, Words, confusions, shown_texts
from pipeline.tasks.rows import draw_labels

SPLITS = ("train", "validation", "test")
CLASSIFICATION = Words(
    {"macro_f1": "macro-F1", "accuracy": "accuracy"},
    {"scratch": SCRATCH, "tfidf": "TF-IDF + logistic regression", "majority": "majority class"},
    ("tfidf", "TF-IDF", "TF-IDF with logistic regression on the same labels"),
    "macro_f1",
)


def class_findings(predictions: pd.DataFrame, rows: pd.DataFrame, config: dict[str, Any]) -> dict[str, Any]:
    return {
        "confusions": confusions(predictions, config["labels"]),
        "mistakes": worst_mistakes(predictions, rows),
    }


def worst_mistakes(predictions: pd.DataFrame, rows: pd.DataFrame) -> list[dict[str, Any]]:
    """The wrong predictions that the model was surest of, with their texts."""
    sure = predictions.filter(regex="^p_").max(axis=1)
    wrong = predictions.assign(sure=sure)[predictions["label"] != predictions["predicted"]]
    worst = wrong.sort_values(["sure", "id"], ascending=[False, True]).head(WORST)
    texts = shown_texts(rows)
    return [
        {
            "id": row["id"],
            "label": row["label"],
            "predicted": row["predicted"],
            "certainty": f"with probability {row['sure']:.3f}",
            "text": texts[row["id"]],
        }
        for row in worst.to_dict("records")
    ]


def label_counts(rows: pd.DataFrame, classes: list[str], task: Task, seed: int) -> list[dict[str, Any]]:
    """Rows of each label by split, and how many of them were drawn to train on."""
    counts = pd.crosstab(rows["label"], rows["split"]).reindex(index=classes, columns=list(SPLITS), fill_value=0)
    drawn, _ = draw_labels(rows[rows["split"] == "train"], task.labels_per_class, seed)
    used = drawn["label"].value_counts()
    return [
        {"label": label, "used": int(used.get(label, 0)), **dict(zip(SPLITS, row, strict=True))}
        for label, row in zip(classes, counts.to_numpy().tolist(), strict=True)
    ]


CLASS_PAGE = KindPage(CLASSIFICATION, class_findings, label_counts)
