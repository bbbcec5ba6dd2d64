"""The tables of a corpus, as `ingest` writes them and `validate` reads them."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd

DOCUMENT_COLUMNS = ["id", "text", "split", "group", "source"]
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
