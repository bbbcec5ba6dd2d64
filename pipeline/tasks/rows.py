"""Labelled rows: reading them, and drawing the few that a task is trained on."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from pipeline.common.errors import HallmarkError, Problems
from pipeline.common.tables import read_table

PAIR = "pair"  # the column of a second text, where rows have one
NO_LABEL = ""  # how the rows without any label are called where several are allowed
Text = str | tuple[str, str]  # a text, or a text and a second one that belongs to it


def read_rows(path: Path | str) -> pd.DataFrame:
    """Read a task's table: id, text, perhaps pair, what is learned (label; labels, spans or messages as JSON), split
    (train | validation | test), group.
    """
    return read_table(path)


def texts_of(rows: pd.DataFrame) -> Sequence[Text]:
    """What a model reads of each row: its text, or its two texts where rows have a second one."""
    texts: list[str] = rows["text"].tolist()
    return list(zip(texts, rows[PAIR].tolist(), strict=True)) if PAIR in rows else texts


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


def draw_rows(rows: pd.DataFrame, count: int | None, seed: int) -> pd.DataFrame:
    """Draw `count` rows (None: all), decided by the seed; a larger draw contains a smaller one of the same seed."""
    return in_drawn_order(rows, seed)[:count]


def validation_rows(rows: pd.DataFrame, where: str, most: int, seed: int) -> pd.DataFrame:
    """At most so many rows of the validation split, decided by the seed. Raises HallmarkError if there are none."""
    return draw_rows(of_split(rows, "validation", where), most, seed)


def evenly(count: int, most: int) -> slice:
    """Which of `count` rows to take for at most `most` of them, spread over all."""
    return slice(None, None, -(-count // most))


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


def labels_of_training(
    rows: pd.DataFrame, labels: Sequence[Iterable[str]], where: str, *, learned: str, owner: str
) -> list[str]:
    """The labels that training knows, sorted, where a row may have any number of them.

    Args:
        labels: of each row.
        learned, owner: what is learned from a row, and what has a label, for messages.

    Raises:
        HallmarkError: none, or validation or test rows have labels that no training row has.
    """
    by_split: dict[str, Counter[str]] = {}
    for split, found in zip(rows["split"], labels, strict=True):
        by_split.setdefault(split, Counter()).update(found)
    known = sorted(by_split.get("train", {}))
    problems = Problems(where)
    if not known:
        problems.add(f"no training row has a {learned}: there is nothing to learn")
    for split, counts in sorted(by_split.items()):
        for label in sorted(set(counts) - set(known)):
            problems.add(f"{counts[label]} {owner}s of {split} have the label {label!r}, which no training {owner} has")
    problems.raise_if_any(fix=f"give training {owner}s of every label that is tested")
    return known


def draw_by_labels(
    rows: pd.DataFrame, labels: Sequence[set[str]], texts_per_label: int | None
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Keep the first `texts_per_label` rows that have a label, for each label, and as many without any (None: all).

    More texts per label contain those of fewer, and what a label gets does not depend on the others.

    Args:
        rows: in drawn order.
        labels: of each row.

    Returns:
        The rows that are kept; and for each label that has fewer than `texts_per_label`, how many it has.
    """
    if texts_per_label is None:
        return rows, {}
    taken: dict[str, int] = {}
    keep = []
    for found in labels:
        names = found or {NO_LABEL}
        keep.append(any(taken.get(name, 0) < texts_per_label for name in names))
        for name in names:
            taken[name] = taken.get(name, 0) + 1
    short = {name: count for name, count in taken.items() if name != NO_LABEL and count < texts_per_label}
    return rows[keep], dict(sorted(short.items()))
