"""Parquet tables: the same rows, the same bytes; a torn file names itself."""

from pathlib import Path

import pandas as pd
import pytest

from pipeline.common.errors import HallmarkError
from pipeline.common.tables import ROWS_PER_GROUP, read_table, stream_table, write_table


@pytest.fixture
def frame() -> pd.DataFrame:
    count = ROWS_PER_GROUP + 10
    return pd.DataFrame({"id": [str(row) for row in range(count)], "text": ["中文 🙂 text"] * count})


def test_rows_come_back_and_bytes_are_the_same(tmp_path: Path, frame: pd.DataFrame) -> None:
    write_table(tmp_path / "a.parquet", frame)
    write_table(tmp_path / "b.parquet", frame.set_index(frame.index + 5))
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    pd.testing.assert_frame_equal(read_table(tmp_path / "a.parquet"), frame)
    assert list(read_table(tmp_path / "a.parquet", columns=["text"])) == ["text"]


def test_streaming_yields_the_rows_in_order(tmp_path: Path, frame: pd.DataFrame) -> None:
    write_table(tmp_path / "a.parquet", frame)
    parts = list(stream_table(tmp_path / "a.parquet", ["id"]))
    assert len(parts) > 1
    assert pd.concat(parts)["id"].tolist() == frame["id"].tolist()


@pytest.mark.parametrize("kept", [0, 3, 100, -20])
def test_a_torn_file_is_named_with_its_mend(tmp_path: Path, frame: pd.DataFrame, kept: int) -> None:
    path = tmp_path / "a.parquet"
    write_table(path, frame)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(HallmarkError, match=r"a\.parquet: this is not a whole Parquet file") as caught:
        read_table(path)
    assert caught.value.fix


def test_damaged_pages_are_named(tmp_path: Path, frame: pd.DataFrame) -> None:
    path = tmp_path / "a.parquet"
    write_table(path, frame.assign(text=[f"row {row}" for row in frame.index]))
    content = bytearray(path.read_bytes())
    content[len(content) // 4 : len(content) // 2] = bytes(len(content) // 4)
    path.write_bytes(content)
    with pytest.raises(HallmarkError, match=r"a\.parquet"):
        read_table(path)


def test_a_missing_table_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(HallmarkError, match="next: dvc repro"):
        read_table(tmp_path / "a.parquet")
