"""How a setting names a column of a table."""

from typing import Annotated, Any

from pydantic import BeforeValidator


def _is_column(value: Any) -> Any:
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise ValueError("allowed: the name of a column, or its number from 1 in a .csv or .tsv file without a header")


# The name that a header gives it, or its number from 1 in a table without a header.
Column = Annotated[str | int, BeforeValidator(_is_column)]
