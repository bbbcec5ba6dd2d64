"""A target text for each text: its translation, its summary, what describes it."""

from typing import Any

import pandas as pd

from pipeline.common.params import Validate
from pipeline.corpus.checks import Check, distinct_at_least
from pipeline.corpus.forms.form import Form, is_unique
from pipeline.corpus.splitting import TRAIN


def parse(value: Any) -> str | None:
    return value.strip() or None if isinstance(value, str) else None


def check(settings: Validate, table: pd.DataFrame) -> tuple[pd.DataFrame, list[Check]]:
    training = table["target"].where(is_unique(table) & (table["split"] == TRAIN))
    return table.assign(training_target=training), [
        distinct_at_least("targets_differ", "the training split has two targets or more", "training_target", 2)
    ]


def describe(table: pd.DataFrame) -> dict[str, Any]:
    """The characters of all targets, by split."""
    sizes = table["target"].str.len().groupby(table["split"]).sum()
    return {"target_characters": {str(split): int(size) for split, size in sizes.sort_index().items()}}


def refuse(targets: list[str]) -> str | None:
    return f"all {len(targets)} targets are the same text" if len(set(targets)) == 1 else None


TEXTS = Form("target", "a text", parse, check, describe, refuse, target_is_text=True)
