"""Any number of labels for each text, also none."""

import json
import re
from typing import Any

import pandas as pd

from pipeline.common.label_sets import labels_from_json, labels_to_json
from pipeline.common.params import Validate
from pipeline.corpus.checks import Check
from pipeline.corpus.forms.form import Form, as_name, check_labels, compare_splits, counts_by_split

SEPARATORS = re.compile("[|;]")


def parse(value: Any) -> str | None:
    """A list of labels; or a text: a JSON list if it begins with `[`, else labels with `|` or `;` between them.

    An empty list and an empty text say that there is no label.
    """
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    elif isinstance(value, str):
        value = [part for part in SEPARATORS.split(value) if part.strip()]
    labels = [as_name(label) for label in (value if isinstance(value, list) else [value])]
    return labels_to_json(label for label in labels if label) if all(labels) else None


def check(settings: Validate, table: pd.DataFrame) -> tuple[pd.DataFrame, list[Check]]:
    return compare_splits(table, each_label(table["labels"])), check_labels("a text of the training split has a label")


def each_label(column: "pd.Series[str]") -> "pd.Series[str]":
    """Every label of every text, one after another, each with the index of its row."""
    return column.map(labels_from_json).explode().dropna().astype("str")


def describe(table: pd.DataFrame) -> dict[str, Any]:
    return {"labels": counts_by_split(each_label(table["labels"]), table)}


def refuse(targets: list[str]) -> str | None:
    if set(targets) == {labels_to_json([])}:
        return f"not one of the {len(targets)} texts has a label"
    if len(set(targets)) == 1:
        return f"all {len(targets)} texts have the same labels, {targets[0]}; there is nothing to tell apart"
    return None


LABEL_SETS = Form("labels", "a list of labels (also as text: a|b, a;b)", parse, check, describe, refuse)
