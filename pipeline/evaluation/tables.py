"""A table of figures, as text."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """What is printed. `words` are the columns of words, the others hold numbers."""

    title: str
    caption: str
    columns: list[str]
    rows: list[list[str]]
    words: frozenset[int] = frozenset({0})
