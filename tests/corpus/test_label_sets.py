"""Any number of labels for each text: how files give them, and what is wrong with them."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.common.errors import HallmarkError
from pipeline.common.params import Source, Task, Validate
from pipeline.corpus.expectations import Examiner
from pipeline.corpus.files import read_files
from pipeline.corpus.forms.label_sets import LABEL_SETS, parse
from pipeline.corpus.quarantine import describe_outcomes, judge
from pipeline.corpus.rows import REJECTED_COLUMNS, frame


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["b", "a", "b"], '["a", "b"]'),
        ("b|a", '["a", "b"]'),
        (" b ; a;", '["a", "b"]'),
        ('["a|b", "语言"]', '["a|b", "语言"]'),
        ("one", '["one"]'),
        ([3, 1.0], '["1", "3"]'),
        (3, '["3"]'),
        ("2;3", '["2", "3"]'),
        ([], "[]"),
        ("", "[]"),
        (" ", "[]"),
        ("[]", "[]"),
        (None, None),
        (float("nan"), None),
        (["a", ""], None),
        (["a", None], None),
        ('["a"', None),
        ({"a": 1}, None),
    ],
)
def test_labels_are_a_list_or_a_text_with_separators(given: Any, expected: str | None) -> None:
    assert parse(given) == expected


def read(own: Path, path: str) -> Any:
    task = Task(kind="multi_label_classification", path=path)
    return read_files(Source(kind="files", path=str(own)), {"topics": task}, 1)


def test_a_table_is_read_and_rows_without_labels_said_are_set_aside(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("A document.\n")
    rows = [{"text": f"t{number}", "labels": ["a", "b"][: number % 3]} for number in range(9)]
    lines = [json.dumps(row) for row in [*rows, {"text": "x", "labels": None}]]
    (tmp_path / "topics.jsonl").write_text("\n".join(lines))
    corpus = read(tmp_path, "topics.jsonl")
    assert corpus.tasks["topics"].columns.to_list() == ["id", "text", "labels", "split", "group"]
    assert corpus.tasks["topics"]["labels"].to_list() == ["[]", '["a"]', '["a", "b"]'] * 3
    assert corpus.rejected["id"].to_list() == ["topics.jsonl:10"]
    assert corpus.rejected["reason"][0] == "'labels' is missing, not a list of labels (also as text: a|b, a;b)"


@pytest.mark.parametrize(
    ("labels", "message"),
    [("", "not one of the 2 texts has a label"), ("a|b", 'all 2 texts have the same labels, \\["a", "b"\\]')],
)
def test_labels_that_tell_nothing_apart_are_refused(tmp_path: Path, labels: str, message: str) -> None:
    (tmp_path / "one.txt").write_text("A document.\n")
    (tmp_path / "topics.csv").write_text(f"text,labels\nx,{labels}\ny,{labels}\n")
    with pytest.raises(HallmarkError, match=f"tasks.topics: {message}"):
        read(tmp_path, "topics.csv")


def test_rows_with_labels_that_training_lacks_are_set_aside(tmp_path: Path) -> None:
    splits = ["train", "train", "train", "validation", "test"]
    rows = [(f"r{n}", f"text {n}", '["a"]' if n % 2 else '["a", "b"]', splits[n % 5], "f") for n in range(100)]
    table = frame(rows, LABEL_SETS.columns(with_pair=False))
    table.loc[9, "labels"] = '["a", "unheard"]'  # of the test split
    table.loc[10, "labels"] = '["untested"]'  # of the training split
    verdict = judge("tasks/topics", table, frame([], REJECTED_COLUMNS), Validate(), Examiner(tmp_path))
    assert verdict.faults == []
    assert verdict.quarantined["id"].to_list() == ["r9"]
    assert "label_known" in verdict.quarantined["reasons"].iloc[0]
    assert not describe_outcomes(verdict.outcomes)["label_tested"]["success"]
    assert verdict.clean["labels"].tolist() == table["labels"].drop(index=9).tolist()
    empty = table.assign(labels=table["labels"].where(table["split"] != "train", "[]"))
    refused = judge("tasks/topics", empty, frame([], REJECTED_COLUMNS), Validate(), Examiner(tmp_path / "more"))
    assert any("labels_to_learn (a text of the training split has a label)" in fault for fault in refused.faults)
    assert LABEL_SETS.describe(pd.DataFrame(table))["labels"]["train"] == {"a": 59, "b": 29, "untested": 1}
