"""The tables of a corpus, as `ingest` writes them and `validate` reads them."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd

from pipeline.common.spans import spans_from_json

DOCUMENT_COLUMNS = ["id", "text", "split", "group", "source"]
TASK_COLUMNS = ["id", "text", "label", "split", "group"]
SPAN_COLUMNS = ["id", "text", "spans", "split", "group"]  # of a token_classification; spans as JSON
REJECTED_COLUMNS = ["table", "id", "reason", "text"]
QUARANTINE_COLUMNS = ["table", "id", "reasons", "text"]

DOCUMENTS = "documents"
REJECTED_CHARACTERS = 2000  # of what could not be read, this much is kept to look at


class Document(NamedTuple):
    id: str
    text: str
    split: str
    group: str  # module or file
    source: str  # library, or the name (or glob) in source.documents that found it; what pretrain.source_weights names


class Labelled(NamedTuple):
    id: str
    text: str
    label: str  # or the spans, as JSON
    split: str
    group: str  # module or file


class Rejected(NamedTuple):
    """A row that could not be read: it is in no other table."""

    table: str
    id: str  # file, or file:row
    reason: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """What a source gives. `facts` are figures for the stage's metrics."""

    documents: pd.DataFrame
    tasks: dict[str, pd.DataFrame]
    rejected: pd.DataFrame
    facts: dict[str, Any] = field(default_factory=dict)


def frame(rows: list[Any], columns: list[str]) -> pd.DataFrame:
    """Rows of strings as a table of dtype `str`, also where there is no row."""
    return pd.DataFrame(rows, columns=columns, dtype="str")


def task_table(task: str) -> str:
    """How a task's table is called in messages, metrics and the quarantine."""
    return f"tasks/{task}"


def describe(table: pd.DataFrame) -> dict[str, Any]:
    """Rows, characters, and rows by split (and source or label) of a table, for the metrics."""
    described: dict[str, Any] = {
        "rows": len(table),
        "characters": int(table["text"].str.len().sum()),
        "splits": _counts(table["split"]),
    }
    if "source" in table:
        described["sources"] = _counts(table["source"])
    if "label" in table:
        described["labels"] = {
            split: _counts(table.loc[table["split"] == split, "label"]) for split in described["splits"]
        }
    if "spans" in table:
        described["spans"] = {
            split: _counts(span_labels(table.loc[table["split"] == split, "spans"])) for split in described["splits"]
        }
    return described


def span_labels(column: "pd.Series[str]") -> "pd.Series[str]":
    """The label of every span, one after another, each with the index of its row."""
    labels = column.map(lambda content: [span.label for span in spans_from_json(content)]).explode()
    return labels.dropna().astype("str")


def _counts(column: "pd.Series[str]") -> dict[str, int]:
    return {str(name): int(count) for name, count in column.value_counts().sort_index().items()}
