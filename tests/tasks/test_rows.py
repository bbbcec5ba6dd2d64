"""Labels are drawn by the seed and the ids alone."""

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.common.errors import HallmarkError
from pipeline.tasks.rows import draw_labels, of_split


def rows_of(counts: dict[str, int]) -> pd.DataFrame:
    names = [(f"{label}-{number}", label) for label, count in counts.items() for number in range(count)]
    return pd.DataFrame({"id": [n for n, _ in names], "label": [label for _, label in names], "split": "train"})


def test_each_class_gets_as_many_as_asked_and_the_short_ones_are_reported() -> None:
    drawn, short = draw_labels(rows_of({"a": 9, "b": 2, "c": 5}), 4, seed=1)
    assert drawn["label"].value_counts().to_dict() == {"a": 4, "b": 2, "c": 4}
    assert short == {"b": 2}


def test_none_takes_all() -> None:
    drawn, short = draw_labels(rows_of({"a": 9, "b": 2}), None, seed=1)
    assert len(drawn) == 11
    assert short == {}


@given(st.integers(0, 5), st.integers(1, 6), st.randoms())
@settings(max_examples=30, deadline=None)
def test_order_in_the_file_and_other_classes_change_nothing(seed: int, count: int, random) -> None:
    rows = rows_of({"a": 8, "b": 8})
    drawn, _ = draw_labels(rows, count, seed)
    order = list(range(len(rows)))
    random.shuffle(order)
    again, _ = draw_labels(rows.iloc[order], count, seed)
    assert drawn["id"].tolist() == again["id"].tolist()
    alone, _ = draw_labels(rows[rows["label"] == "b"], count, seed)
    assert drawn.loc[drawn["label"] == "b", "id"].tolist() == alone["id"].tolist()
    more, _ = draw_labels(rows, count + 1, seed)
    assert set(drawn["id"]) <= set(more["id"])


def test_another_seed_draws_others() -> None:
    rows = rows_of({"a": 50})
    assert draw_labels(rows, 5, 1)[0]["id"].tolist() != draw_labels(rows, 5, 2)[0]["id"].tolist()


def test_a_split_without_rows_is_named(tmp_path: Path) -> None:
    with pytest.raises(HallmarkError, match=r"table.parquet: there is no row of the split 'test'"):
        of_split(rows_of({"a": 1}), "test", "table.parquet")
