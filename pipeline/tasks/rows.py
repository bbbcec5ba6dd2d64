"""Labelled rows: reading them, and drawing the few that a task is trained on."""

import hashlib
from pathlib import Path

import pandas as pd

from pipeline.common.errors import HallmarkError
from pipeline.common.tables import read_table


def read_rows(path: Path | str) -> pd.DataFrame:
    """Read a task's table: id, text, label (or spans, as JSON), split (train | validation | test), group."""
    return read_table(path)


def of_split(rows: pd.DataFrame, split: str, where: str) -> pd.DataFrame:
    """The rows of one split. Raises HallmarkError if there are none."""
    chosen = rows[rows["split"] == split]
    if chosen.empty:
        raise HallmarkError(
            f"there is no row of the split {split!r}",
            where=where,
            fix="give more labelled rows, or a column with train, validation and test as split_column in params.yaml",
        )
    return chosen


def in_drawn_order(rows: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The rows in an order that follows from `seed` and their ids alone, however they stand in the file."""
    keys = [hashlib.sha256(f"{seed}\0{name}".encode()).digest() for name in rows["id"]]
    order = sorted(range(len(rows)), key=keys.__getitem__)
    return rows.iloc[order]


def draw_labels(rows: pd.DataFrame, labels_per_class: int | None, seed: int) -> tuple[pd.DataFrame, dict[str, int]]:
    """Draw `labels_per_class` rows of each class (None: all), decided by the seed.

    A larger draw contains a smaller one of the same seed, and what a class gets does not depend on the others.

    Returns:
        The drawn rows; and for each class that has fewer than `labels_per_class`, how many it has.
    """
    drawn = in_drawn_order(rows, seed)
    if labels_per_class is None:
        return drawn, {}
    drawn = drawn.groupby("label", sort=False).head(labels_per_class)
    counts = drawn["label"].value_counts()
    short = {str(label): int(count) for label, count in counts.items() if count < labels_per_class}
    return drawn, dict(sorted(short.items()))
