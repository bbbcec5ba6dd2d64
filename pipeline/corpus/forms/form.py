"""What a form of labelled rows has to say for itself."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.common.params import Task, Validate
from pipeline.corpus.checks import INFO, WARNING, Check, distinct_at_least, none_has
from pipeline.corpus.readers import Row, Unreadable
from pipeline.corpus.splitting import TEST, TRAIN

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
        target_is_text: what is to be learned is text that could be pretrained on.
        text_of: a row's text, where it follows from its target; the user's files then have no column of it.
        join: makes the target of such a row of a text and a value, where params.yaml names the column of the value.
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
    target_is_text: bool = False
    text_of: Callable[[str], str] | None = None
    join: Callable[[str, Any], Any] | None = None

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


def compare_splits(table: pd.DataFrame, labels: "pd.Series[str]") -> pd.DataFrame:
    """Where a row may have several labels: which of them training knows, and which are tested.

    Args:
        labels: every label, one after another, each with the index of its row.

    Returns:
        The table with `training_label` (the first one of a training row), `unknown_label` (the first one of a row that
        training has not) and `untested_label` (of a training row: the first one that the test split has not); missing
        elsewhere.
    """
    unique = is_unique(table).loc[labels.index]
    split, first = table["split"].loc[labels.index], ~labels.index.duplicated()
    training, test = (set(labels[(split == name) & unique]) for name in (TRAIN, TEST))
    unknown, untested = labels[~labels.isin(training)], labels[~labels.isin(test) & (split == TRAIN)]
    return table.assign(
        training_label=labels[first & (split == TRAIN)].reindex(table.index),
        unknown_label=unknown[~unknown.index.duplicated()].reindex(table.index),
        untested_label=untested[~untested.index.duplicated()].reindex(table.index),
    )


def check_labels(something_to_learn: str, thing: str = "label") -> list[Check]:
    """The checks of what `compare_splits` adds.

    Args:
        something_to_learn: the sentence that is true where training has a label.
        thing: what has labels, in the check's name.
    """
    return [
        distinct_at_least(f"{thing}s_to_learn", something_to_learn, "training_label", 1),
        none_has("label_known", "every label is in the training split, too", "unknown_label", WARNING),
        none_has("label_tested", "every label of the training split is in the test split, too", "untested_label", INFO),
    ]
