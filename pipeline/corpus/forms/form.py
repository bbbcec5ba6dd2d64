"""What a form of labelled rows has to say for itself."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.common.params import Task, Validate
from pipeline.corpus.checks import Check
from pipeline.corpus.readers import Row, Unreadable

PAIR = "pair"  # the column of a second text, where rows have one

# Rows of a format of its own: values by the names of the columns in the form's table (id and split may be missing).
Reader = Callable[[Path, Task], Iterator[Row | Unreadable]]
Faults = dict[str, list[str | None]]  # by the names in `Form.faults`: for each row what is wrong with it, or None


def no_faults(table: pd.DataFrame) -> Faults:
    return {}


@dataclass(frozen=True)
class Form:
    """The rows of a kind of task: id, text, perhaps a second text, what is to be learned, split and group.

    Attributes:
        target: the column of what is to be learned; in the user's files, too, unless they call it otherwise.
        wording: what a value of it is, in words.
        parse: a value of a file as the table holds it, a string that is not empty; None: it is no such value.
        checks: what the table as a whole must be like, given its rows with `duplicate_of` and `copy_of_held_out`
            (see `pipeline.corpus.quarantine.find_copies`): the same rows with the columns to check, and the checks.
        describe: figures about the targets of a table, for the metrics.
        refuse: why these targets cannot be learned at all; None: they can. Asked before anything else is read.
        pair: what the second text is usually called in the user's files; None: rows have one only if params.yaml
            names its column.
        faults: what may be wrong with a single row, by name, as the sentence that is true where it is not.
        find_faults: finds them.
        readers: formats that only this form has, by suffix.
    """

    target: str
    wording: str
    parse: Callable[[Any], str | None]
    checks: Callable[[Validate, pd.DataFrame], tuple[pd.DataFrame, list[Check]]]
    describe: Callable[[pd.DataFrame], dict[str, Any]]
    refuse: Callable[[list[str]], str | None] = lambda targets: None
    pair: str | None = None
    faults: Mapping[str, str] = field(default_factory=dict)
    find_faults: Callable[[pd.DataFrame], Faults] = no_faults
    readers: Mapping[str, Reader] = field(default_factory=dict)

    def columns(self, with_pair: bool) -> list[str]:
        """Of its table."""
        return ["id", "text", *([PAIR] if with_pair else []), self.target, "split", "group"]


def as_name(value: Any) -> str | None:
    """A label, id or split as a string, or None where it is none: classes are often numbered."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # tables with a gap turn whole numbers into floats
    if isinstance(value, str | int):
        return str(value).strip() or None
    return None


def counts(column: "pd.Series[str]") -> dict[str, int]:
    return {str(name): int(count) for name, count in column.value_counts().sort_index().items()}


def counts_by_split(labels: "pd.Series[str]", table: pd.DataFrame) -> dict[str, dict[str, int]]:
    """How often each label stands in each split; `labels` has the index of their rows."""
    splits = table["split"].loc[labels.index]
    return {split: counts(labels[splits == split]) for split in sorted(table["split"].unique())}


def is_unique(table: pd.DataFrame) -> "pd.Series[bool]":
    """Which rows are no copies that will be set aside."""
    return table["duplicate_of"].isna() & table["copy_of_held_out"].isna()
