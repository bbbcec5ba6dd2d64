"""Validation: each bad row found with its reason, each bad table refused with the expectation that failed."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.common.errors import HallmarkError
from pipeline.common.params import Validate
from pipeline.corpus.checks import CRITICAL, Check
from pipeline.corpus.expectations import Examiner
from pipeline.corpus.forms.labels import LABELS
from pipeline.corpus.quarantine import Verdict, describe_outcomes, find_copies, judge, refuse
from pipeline.corpus.rows import DOCUMENT_COLUMNS, REJECTED_COLUMNS, frame

SPLITS = ["train", "train", "train", "validation", "test"]


def make_task(rows: int = 100) -> pd.DataFrame:
    return frame(
        [(f"r{n}", f"Text number {n} 文本😀.", "ab"[n // 5 % 2], SPLITS[n % 5], "file.csv") for n in range(rows)],
        LABELS.columns(with_pair=False),
    )


def make_documents(rows: int = 50) -> pd.DataFrame:
    return frame([(f"d{n}", f"Document {n}\n", SPLITS[n % 4], ".", f"{n}.txt") for n in range(rows)], DOCUMENT_COLUMNS)


@pytest.fixture
def examiner(tmp_path: Path) -> Examiner:
    return Examiner(tmp_path / "docs")


NONE_REJECTED = frame([], REJECTED_COLUMNS)


def judge_task(
    table: pd.DataFrame, examiner: Examiner, rejected: pd.DataFrame = NONE_REJECTED, **limits: Any
) -> Verdict:
    return judge("tasks/mood", table, rejected, Validate.model_validate(limits), examiner)


def outcome_of(verdict: Verdict, name: str) -> dict[str, Any]:
    return describe_outcomes(verdict.outcomes)[name]


def test_a_good_corpus_passes_unchanged(examiner: Examiner) -> None:
    task, documents = make_task(), make_documents()
    verdicts = {
        "tasks/mood": judge_task(task, examiner),
        "documents": judge("documents", documents, NONE_REJECTED, Validate(), examiner),
    }
    pd.testing.assert_frame_equal(verdicts["tasks/mood"].clean, task)
    pd.testing.assert_frame_equal(verdicts["documents"].clean, documents)
    assert all(outcome.success for verdict in verdicts.values() for outcome in verdict.outcomes)
    refuse(verdicts, Path("quarantine"), Path("page"))


@pytest.mark.parametrize(
    ("column", "value", "expectation"),
    [
        ("text", " \n\t", "text_not_empty"),
        ("text", None, "text_not_empty"),
        ("text", "", "text_length"),
        ("text", "x" * 101, "text_length"),
        ("text", "wrong \ufffd\ufffd encoding", "replacement_characters"),
        ("text", "bell \x07\x07 rings", "control_characters"),
        ("id", "", "id_not_empty"),
        ("id", "r8", "id_unique"),
        ("split", "dev", "split_name"),
        ("label", "", "label_not_empty"),
        ("label", "unheard-of", "label_known"),
    ],
)
def test_a_bad_row_is_set_aside_with_its_reason(
    examiner: Examiner, column: str, value: str | None, expectation: str
) -> None:
    task = make_task()
    task.loc[9, column] = value  # a row of the test split
    verdict = judge_task(task, examiner, max_quarantined_share=0.05, max_characters=100)
    assert verdict.faults == []
    assert expectation in " ".join(verdict.quarantined["reasons"])
    assert set(verdict.quarantined["id"]) == ({"r8"} if expectation == "id_unique" else {task.loc[9, "id"]})
    assert len(verdict.clean) + len(verdict.quarantined) == 100
    assert not outcome_of(verdict, expectation)["success"]
    assert outcome_of(verdict, expectation)["rows"] == len(verdict.quarantined)


def test_a_row_is_set_aside_once_with_every_reason(examiner: Examiner) -> None:
    task = make_task()
    task.loc[9, ["text", "split", "label"]] = ["\x00\ufffd", "dev", " "]
    verdict = judge_task(task, examiner)
    [reasons] = verdict.quarantined["reasons"]
    names = [reason.partition(" ")[0] for reason in reasons.split("; ")]
    assert names == ["replacement_characters", "control_characters", "split_name", "label_not_empty"]
    assert verdict.quarantined[["table", "id", "text"]].iloc[0].to_list() == ["tasks/mood", "r9", "\x00\ufffd"]


def test_carriage_returns_and_tabs_are_no_control_characters(examiner: Examiner) -> None:
    task = make_task()
    task.loc[9, "text"] = "a\tb\r\nc"
    assert len(judge_task(task, examiner).quarantined) == 0


def test_copies_go_and_held_out_rows_stay(examiner: Examiner) -> None:
    task = make_task()  # rows 0-2 train, 3 validation, 4 test
    task.loc[[0, 1, 4], "text"] = "the same in train and test"
    task.loc[[5, 6], "text"] = "twice in train"
    verdict = judge_task(task, examiner)
    assert verdict.faults == []
    assert dict(zip(verdict.quarantined["id"], verdict.quarantined["reasons"], strict=True)) == {
        "r0": "duplicate of r4, which is held out",
        "r1": "duplicate of r4, which is held out",
        "r6": "duplicate of r5",
    }
    assert verdict.counts["duplicates"] == 3
    assert verdict.counts["quarantined"] == 0
    assert outcome_of(verdict, "no_leakage")["rows"] == 2
    assert outcome_of(verdict, "no_duplicate")["rows"] == 1
    assert verdict.clean["text"].is_unique


def test_a_bad_row_is_no_reason_to_drop_its_copy(examiner: Examiner) -> None:
    task = make_task()
    task.loc[0, ["text", "label"]] = ["twice", ""]
    task.loc[1, "text"] = "twice"
    assert judge_task(task, examiner).quarantined["id"].to_list() == ["r0"]


def test_copies_are_found_in_order_of_precedence() -> None:
    table = frame(
        [("a", "x", "train"), ("b", "x", "validation"), ("c", "x", "validation"), ("d", "y", "train")],
        ["id", "text", "split"],
    )
    found = find_copies(table)
    assert found["duplicate_of"].fillna("-").to_list() == ["-", "-", "b", "-"]
    assert found["copy_of_held_out"].fillna("-").to_list() == ["b", "-", "-", "-"]


def test_rows_of_one_text_with_other_second_texts_are_no_copies(examiner: Examiner) -> None:
    table = make_task().assign(text="one text for all")
    table.insert(2, "pair", [f"pair {n % 90}" for n in range(100)])
    table.loc[3, "pair"] = " "
    verdict = judge_task(table, examiner, max_duplicate_share=0.2)
    assert verdict.faults == []
    assert verdict.counts["duplicates"] == 9
    reasons = dict(zip(verdict.quarantined["id"], verdict.quarantined["reasons"], strict=True))
    assert reasons["r3"] == "pair_not_empty (expected: every row has a second text)"


def test_too_many_bad_rows_fail_and_say_which(examiner: Examiner, tmp_path: Path) -> None:
    task = make_task()
    task.loc[list(range(10, 17)), "text"] = ""
    rejected = frame([("tasks/mood", "file.csv:7", "not UTF-8: byte 0xff", "?")], REJECTED_COLUMNS)
    verdict = judge_task(task, examiner, rejected)
    page = examiner.write_pages()
    with pytest.raises(HallmarkError) as caught:
        refuse({"tasks/mood": verdict}, Path("data/clean/quarantine.parquet"), page)
    message = str(caught.value)
    assert "tasks/mood: 8 of 101 rows set aside (7.92%), above validate.max_quarantined_share (2.00%)" in message
    assert "text_not_empty (every text has a visible character): 7 rows, first: r10, r11, r12, r13, r14\n" in message
    assert "not readable: 1 rows, first: file.csv:7 (not UTF-8: byte 0xff)" in message
    assert f"look at data/clean/quarantine.parquet and {page}" in message
    assert len(verdict.quarantined) == 7


def test_rejected_rows_alone_can_break_the_budget(examiner: Examiner) -> None:
    rejected = frame([("tasks/mood", f"file.csv:{n}", "not UTF-8", "?") for n in range(5)], REJECTED_COLUMNS)
    assert "5 of 105 rows" in judge_task(make_task(), examiner, rejected).faults[0]
    assert judge_task(make_task(), Examiner(Path("unused")), rejected, max_quarantined_share=0.05).faults == []


@pytest.mark.parametrize(
    ("change", "expectation"),
    [
        ({"text": "the same"}, "% of the texts are copies of others), observed: 0.01: 99 rows, first: r0, r1, r2"),
        ({"label": "a"}, "class_count (the training split has two classes or more), observed: 1"),
        ({"split": "train"}, "splits_present (there are rows in train, validation, test), missing: test, validation"),
        ({"split": "test"}, "splits_present"),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_used_is_refused(examiner: Examiner, change: dict[str, str], expectation: str) -> None:
    verdict = judge_task(make_task().assign(**change).astype("str"), examiner)
    assert any(expectation in fault for fault in verdict.faults), verdict.faults


def test_an_unbalanced_task_is_refused_with_its_share(examiner: Examiner) -> None:
    task = make_task()
    task.loc[task["split"].eq("train") & (task.index > 9), "label"] = "a"
    [fault] = judge_task(task, examiner).faults
    assert fault.startswith(
        "expectation class_balance (the largest class has at most 90% of the training split), observed: 0.95: 57 rows"
    )
    assert judge_task(task, Examiner(Path("unused")), max_class_share=0.95).faults == []


def test_a_label_that_is_never_tested_is_only_a_remark(examiner: Examiner) -> None:
    task = make_task()
    task.loc[[0, 1], "label"] = "rare"
    verdict = judge_task(task, examiner)
    assert verdict.faults == []
    assert outcome_of(verdict, "label_tested") == {
        "meaning": "every label of the training split is in the test split, too",
        "severity": "info",
        "success": False,
        "rows": 0,
        "share": 0.0,
    }


def test_another_schema_is_refused_before_anything_else(examiner: Examiner) -> None:
    task = make_task().rename(columns={"label": "class"})
    verdict = judge_task(task, examiner)
    assert len(verdict.faults) >= 1
    assert "columns (the columns are id, text, label, split, group), observed: class, group, id" in verdict.faults[0]
    numbers = make_task().assign(label=1)
    assert "label_is_text" in " ".join(judge_task(numbers, Examiner(Path("unused"))).faults)


def test_a_table_of_bad_rows_only_is_refused(examiner: Examiner) -> None:
    faults = judge_task(make_task().assign(text="").astype("str"), examiner).faults
    assert "100 of 100 rows set aside" in faults[0]
    assert "not_empty (there are rows)" in faults[1]


def test_an_expectation_that_raises_is_a_fault_of_the_program(examiner: Examiner) -> None:
    check = Check("typo", "", "ExpectColumnMeanToBeBetween", {"column": "txet", "max_value": 1}, CRITICAL)
    with pytest.raises(RuntimeError, match=r"expectation typo could not be computed: .*txet"):
        examiner.examine("documents", make_documents(), [check])


def test_every_suite_has_its_page(examiner: Examiner, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "old.html").write_text("from another run")
    judge_task(make_task(), examiner)
    judge("documents", make_documents(), NONE_REJECTED, Validate(), examiner)
    page = examiner.write_pages()
    assert page == tmp_path / "docs" / "index.html"
    names = {path.name for path in (tmp_path / "docs" / "validations").rglob("*.html")}
    parts = ("schema", "rows", "table")
    assert names == {f"corpus-{table}-{part}.html" for table in ("tasks-mood", "documents") for part in parts}
    assert not (tmp_path / "docs" / "old.html").exists()
    assert "every text has a visible character" in "".join(
        path.read_text(encoding="utf-8") for path in (tmp_path / "docs" / "expectations").iterdir()
    )
