"""The texts of a table of documents, one after another, all of them or an even share."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.common.tables import stream_table

MEGABYTE = 1_000_000
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: multiples of it spread evenly (Knuth, TAOCP 6.4)


def stream_texts(path: Path | str, split: str, most_bytes: int | None = None) -> Iterator[str]:
    """Yield the texts of one split in the table's order.

    Args:
        path: a documents table with the columns `text` and `split`.
        split: `train` or `validation`.
        most_bytes: give at most so many UTF-8 bytes, from documents spread evenly over the table; None gives all.
    """
    for (text,) in _stream(path, split, ["text"], most_bytes):
        yield text


def stream_documents(path: Path | str, split: str, most_bytes: int | None = None) -> Iterator[tuple[str, str]]:
    """The same texts, each with the name of its source: the table has the column `source`, too."""
    return ((text, source) for text, source in _stream(path, split, ["text", "source"], most_bytes))


def _stream(path: Path | str, split: str, columns: list[str], most_bytes: int | None) -> Iterator[tuple[str, ...]]:
    """Rows of one split; the first column is the text."""
    if most_bytes is None:
        yield from _rows(path, split, columns)
        return
    lengths = np.fromiter((len(text.encode()) for (text,) in _rows(path, split, ["text"])), dtype=np.int64)
    kept = spread(lengths, most_bytes)
    for (text, *others), length, keep in zip(_rows(path, split, columns), lengths, kept, strict=True):
        if keep == length:
            yield text, *others
        elif keep:
            yield text.encode()[:keep].decode(errors="ignore"), *others  # ignores the character that is cut in two


def _rows(path: Path | str, split: str, columns: list[str]) -> Iterator[tuple[str, ...]]:
    for frame in stream_table(path, [*columns, "split"]):
        yield from frame.loc[frame["split"] == split, columns].itertuples(index=False, name=None)


def spread(lengths: np.ndarray, most_bytes: int) -> np.ndarray:
    """How many bytes of each document to keep so that all together are `most_bytes` at most.

    Whole documents are taken in an order that spreads evenly over the table, until one overflows; it is cut.

    Args:
        lengths: int64 (documents,).

    Returns:
        int64 (documents,), from 0 (left out) to the document's length.
    """
    order = np.argsort(np.arange(len(lengths), dtype=np.uint64) * GOLDEN)
    before = np.cumsum(lengths[order]) - lengths[order]
    kept = np.empty_like(lengths)
    kept[order] = np.clip(most_bytes - before, 0, lengths[order])
    return kept
