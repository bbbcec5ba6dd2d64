"""The door `validate`: clean tables, quarantine, metrics and pages, or a message that says why not."""

from pathlib import Path

import pandas as pd
import pytest

from pipeline.common.errors import HallmarkError
from pipeline.common.files import read_json, read_jsonl, sha256_folder
from pipeline.common.layout import (
    CLEAN,
    CLEAN_DOCUMENTS,
    QUARANTINE,
    RAW_DOCUMENTS,
    RAW_REJECTED,
    clean_task,
    data_docs,
    metrics_file,
    raw_task,
)
from pipeline.common.params import Params
from pipeline.common.tables import read_table, write_table
from pipeline.corpus.rows import REJECTED_COLUMNS, frame
from pipeline.stages import validate
from pipeline.stages.door import Stage
from pipeline.tracking.journal import Journal
from tests.corpus.test_quarantine import make_documents, make_task


def make_stage() -> Stage:
    return Stage("validate", "0" * 64, {}, Params(), Journal("0" * 64))


@pytest.fixture(autouse=True)
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HALLMARK_HOME", str(tmp_path / ".hallmark"))
    write_table(RAW_DOCUMENTS, make_documents())
    task = make_task()
    task.loc[9, "text"] = "\x00 zero"
    write_table(raw_task("mood"), task)
    write_table(RAW_REJECTED, frame([], REJECTED_COLUMNS))


def test_clean_rows_go_on_and_bad_ones_are_kept_with_reasons() -> None:
    stage = make_stage()
    validate.main(stage)
    pd.testing.assert_frame_equal(read_table(CLEAN_DOCUMENTS), make_documents())
    assert "r9" not in set(read_table(clean_task("mood"))["id"])
    [row] = read_table(QUARANTINE).to_dict("records")
    assert (row["table"], row["id"], row["text"]) == ("tasks/mood", "r9", "\x00 zero")
    assert row["reasons"].startswith("control_characters")
    metrics = read_json(metrics_file("validate"))
    assert metrics["tables"]["tasks/mood"] == {
        "rows": 100,
        "kept": 99,
        "rejected": 0,
        "quarantined": 1,
        "quarantined_share": 0.01,
        "duplicates": 0,
    }
    assert metrics["expectations"]["tasks/mood"]["control_characters"] == {
        "meaning": "at most 1.00% of a text is control characters",
        "severity": "warning",
        "success": False,
        "rows": 1,
        "share": 0.01,
    }
    assert metrics["expectations"]["documents"]["no_leakage"]["success"]
    assert (data_docs() / "index.html").exists()
    artifacts = [event["path"] for event in read_jsonl(stage.journal.path) if event["event"] == "artifact"]
    assert artifacts == [str(data_docs())]


def test_it_writes_the_same_bytes_twice() -> None:
    validate.main(make_stage())
    first = sha256_folder(CLEAN), metrics_file("validate").read_bytes()
    validate.main(make_stage())
    assert (sha256_folder(CLEAN), metrics_file("validate").read_bytes()) == first


def test_the_faults_of_every_table_are_told_at_once() -> None:
    write_table(raw_task("mood"), make_task().assign(label="a").astype("str"))
    documents = make_documents()
    documents.loc[:9, "text"] = ""
    write_table(RAW_DOCUMENTS, documents)
    with pytest.raises(HallmarkError) as caught:
        validate.main(make_stage())
    message = str(caught.value)
    assert "documents: 10 of 50 rows set aside (20.00%)" in message
    assert "first: d0, d1, d2, d3, d4" in message
    assert "tasks/mood: expectation class_count" in message
    assert str(data_docs() / "index.html") in message
    assert len(read_table(QUARANTINE)) == 10  # to be looked at
    assert (data_docs() / "index.html").exists()


def test_a_torn_table_is_named() -> None:
    RAW_DOCUMENTS.write_bytes(RAW_DOCUMENTS.read_bytes()[:-20])
    with pytest.raises(HallmarkError, match=r"documents\.parquet: this is not a whole Parquet file"):
        validate.main(make_stage())
