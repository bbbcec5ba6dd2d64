"""Parquet tables with fixed metadata: the same rows always give the same bytes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.common.errors import HallmarkError
from pipeline.common.files import atomic_path

ROWS_PER_GROUP = 8192
ROWS_PER_BATCH = 256  # read at once


def write_table(path: Path | str, frame: pd.DataFrame) -> None:
    """Write `frame` without its index and without pandas' own metadata, atomically."""
    table = pa.Table.from_pandas(frame.reset_index(drop=True), preserve_index=False)
    with atomic_path(path) as temporary:
        pq.write_table(
            table.replace_schema_metadata(None), temporary, compression="zstd", row_group_size=ROWS_PER_GROUP
        )


def _open(path: Path | str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except FileNotFoundError:
        raise HallmarkError("this table does not exist", where=str(path), fix="dvc repro") from None
    except pa.ArrowInvalid as error:
        raise HallmarkError(
            f"this is not a whole Parquet file ({error})",
            where=str(path),
            fix="replace the file, or delete it and type `dvc repro` if a stage made it",
        ) from error


def read_table(path: Path | str, columns: list[str] | None = None) -> pd.DataFrame:
    """Read a Parquet file; a missing or torn file raises `HallmarkError` naming it."""
    with _open(path) as file:
        try:
            return file.read(columns=columns).to_pandas()
        except (pa.ArrowInvalid, OSError) as error:
            raise _torn(path, error) from error


def _torn(path: Path | str, error: Exception) -> HallmarkError:
    return HallmarkError(
        f"this Parquet file cannot be read to its end ({error})",
        where=str(path),
        fix="replace the file, or delete it and type `dvc repro` if a stage made it",
    )


def stream_table(path: Path | str, columns: list[str]) -> Iterator[pd.DataFrame]:
    """Yield the rows in order, a few at a time: memory does not grow with the file, however long its texts are."""
    with _open(path) as file:
        try:
            for batch in file.iter_batches(batch_size=ROWS_PER_BATCH, columns=columns):
                yield batch.to_pandas()
        except (pa.ArrowInvalid, OSError) as error:
            raise _torn(path, error) from error


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table, each by its columns."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]
