"""Figures about the tables of a corpus, for the metrics."""

from typing import Any

import pandas as pd

from pipeline.corpus.forms.form import counts
from pipeline.corpus.forms.kinds import form_of


def describe(table: pd.DataFrame) -> dict[str, Any]:
    """Rows, characters, and rows by split (and by source, or by what is to be learned) of a table."""
    described: dict[str, Any] = {
        "rows": len(table),
        "characters": int(table["text"].str.len().sum()),
        "splits": counts(table["split"]),
    }
    if "source" in table:
        return described | {"sources": counts(table["source"])}
    return described | form_of(table.columns.to_list()).describe(table)
