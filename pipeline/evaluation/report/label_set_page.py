"""The page of texts with any number of labels: what is missed and what is given wrongly, and the worst mistakes."""

from typing import Any

import pandas as pd

from pipeline.common.label_sets import labels_from_json
from pipeline.common.params import Task
from pipeline.evaluation.report.class_page import SPLITS
from pipeline.evaluation.report.findings import SCRATCH, WORST, KindPage, Words, confusions, shown_texts
from pipeline.tasks.label_set_metrics import pair_labels
from pipeline.tasks.multi_label_classification import draw_label_sets, label_sets
from pipeline.tasks.span_metrics import NOTHING

MULTI_LABEL_CLASSIFICATION = Words(
    {"macro_f1": "macro-F1", "micro_f1": "micro-F1", "subset_accuracy": "subset accuracy"},
    {
        "scratch": SCRATCH,
        "tfidf": "TF-IDF + logistic regression of each label",
        "majority": "majority of each label",
    },
    ("tfidf", "TF-IDF", "TF-IDF with a logistic regression for each label, on the same labels"),
    "macro_f1",
    "given",
)


def label_set_findings(predictions: pd.DataFrame, rows: pd.DataFrame, config: dict[str, Any]) -> dict[str, Any]:
    both = [[labels_from_json(content) for content in predictions[column]] for column in ("labels", "predicted")]
    pairs = pd.DataFrame(pair_labels(*both), columns=["label", "predicted"])
    return {
        "confusions": confusions(pairs, [*config["labels"], NOTHING]),
        "mistakes": worst_label_sets(predictions, rows),
    }


def worst_label_sets(predictions: pd.DataFrame, rows: pd.DataFrame) -> list[dict[str, Any]]:
    """The texts with the label that the model was most wrong about: given surely, or surely left out."""
    texts, wrong = shown_texts(rows), []
    for row in predictions.to_dict("records"):
        right, found = labels_from_json(row["labels"]), labels_from_json(row["predicted"])
        if differ := sorted(set(right) ^ set(found)):
            worst = max(differ, key=lambda label: abs(row[f"p_{label}"] - 0.5))
            certainty = f"with probability {row[f'p_{worst}']:.3f} of {worst}"
            wrong.append((-abs(row[f"p_{worst}"] - 0.5), row["id"], right, found, certainty))
    return [
        {
            "id": name,
            "label": ", ".join(right) or NOTHING,
            "predicted": ", ".join(found) or NOTHING,
            "certainty": certainty,
            "text": texts[name],
        }
        for _, name, right, found, certainty in sorted(wrong)[:WORST]
    ]


def label_counts(rows: pd.DataFrame, labels: list[str], task: Task, seed: int) -> list[dict[str, Any]]:
    """Texts of each label by split, and how many of them were drawn to train on."""
    drawn, _ = draw_label_sets(rows[rows["split"] == "train"], task.labels_per_class, seed)
    tables = {split: rows[rows["split"] == split] for split in SPLITS} | {"used": drawn}
    counts = {name: pd.Series(label_sets(table)).explode().value_counts() for name, table in tables.items()}
    return [{"label": label, **{name: int(counts[name].get(label, 0)) for name in tables}} for label in labels]


LABEL_SET_PAGE = KindPage(MULTI_LABEL_CLASSIFICATION, label_set_findings, label_counts)
