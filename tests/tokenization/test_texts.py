from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common.tables import write_table
from pipeline.tokenization.texts import spread, stream_texts


@pytest.fixture
def table(texts: list[str], tmp_path: Path) -> Path:
    splits = ["validation" if place % 3 == 0 else "train" for place in range(len(texts))]
    write_table(tmp_path / "documents.parquet", pd.DataFrame({"text": texts, "split": splits}))
    return tmp_path / "documents.parquet"


def test_splits_come_in_order(table: Path, texts: list[str]) -> None:
    assert list(stream_texts(table, "validation")) == texts[::3]
    assert list(stream_texts(table, "validation", most_bytes=10**9)) == texts[::3]
    assert list(stream_texts(table, "test")) == list(stream_texts(table, "test", most_bytes=5)) == []


@pytest.mark.parametrize("most_bytes", [1, 500, 5000])
def test_a_limit_is_filled_but_for_a_cut_character(table: Path, texts: list[str], most_bytes: int) -> None:
    given_texts = list(stream_texts(table, "train", most_bytes))
    size = sum(len(text.encode()) for text in given_texts)
    assert most_bytes - 3 <= size <= most_bytes
    assert sum(text not in texts for text in given_texts) <= 1  # the one that is cut
    assert all(any(text.startswith(part) for text in texts) for part in given_texts)


@given(st.lists(st.integers(0, 1000)), st.integers(0, 20_000))
def test_spread_fills_the_limit(lengths: list[int], most_bytes: int) -> None:
    kept = spread(np.array(lengths, dtype=np.int64), most_bytes)
    assert kept.sum() == min(sum(lengths), most_bytes)
    assert (kept >= 0).all()
    assert (kept <= lengths).all()
    assert ((kept > 0) & (kept < lengths)).sum() <= 1


def test_spread_is_even() -> None:
    kept = spread(np.full(10_000, 100), 100_000) > 0
    assert kept.reshape(10, 1000).sum(1).tolist() == pytest.approx([100] * 10, abs=2)
