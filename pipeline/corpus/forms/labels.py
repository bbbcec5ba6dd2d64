"""One label for each text."""

from typing import Any

import pandas as pd

from pipeline.common.params import Validate
from pipeline.corpus.checks import INFO, Check, distinct_at_least, mean_at_most, values_cover, values_within
from pipeline.corpus.forms.form import Form, as_name, counts_by_split, is_unique
from pipeline.corpus.splitting import TEST, TRAIN


def check(settings: Validate, table: pd.DataFrame) -> tuple[pd.DataFrame, list[Check]]:
    table = count_classes(table)
    known = sorted(table["training_label"].dropna().unique())
    return table, [
        distinct_at_least("class_count", "the training split has two classes or more", "training_label", 2),
        mean_at_most(
            "class_balance",
            f"the largest class has at most {settings.max_class_share:.0%} of the training split",
            "in_largest_class",
            settings.max_class_share,
            table["in_largest_class"] == 1.0,
        ),
        values_within("label_known", "every label is in the training split, too", "label", known),
        values_cover(
            "label_tested",
            "every label of the training split is in the test split, too",
            "test_label",
            known,
            INFO,
        ),
    ]


def count_classes(table: pd.DataFrame) -> pd.DataFrame:
    """Add `training_label` and `test_label`, missing outside their splits, and `in_largest_class` (1.0, 0.0 or NaN)."""
    unique = is_unique(table)
    training_label = table["label"].where(unique & (table["split"] == TRAIN))
    largest = training_label.value_counts().sort_index().sort_values(ascending=False, kind="stable").index[:1]
    return table.assign(
        training_label=training_label,
        test_label=table["label"].where(unique & (table["split"] == TEST)),
        in_largest_class=training_label.isin(largest).astype("float64").where(training_label.notna()),
    )


def describe(table: pd.DataFrame) -> dict[str, Any]:
    return {"labels": counts_by_split(table["label"], table)}


def refuse(targets: list[str]) -> str | None:
    if len(set(targets)) == 1:
        return f"one class only, {targets[0]!r} in {len(targets)} rows; a classification needs two or more"
    return None


LABELS = Form("label", "a label", as_name, check, describe, refuse)
