"""Questions with their answers: from SQuAD's files and from tables, refused with a reason, and validated as answers."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pipeline.common.answers import Answer, answers_from_json, answers_to_json
from pipeline.common.errors import HallmarkError
from pipeline.common.params import Source, Task, Validate
from pipeline.corpus.expectations import Examiner
from pipeline.corpus.files import read_files
from pipeline.corpus.forms.answers import ANSWERS, find_faults
from pipeline.corpus.quarantine import describe_outcomes, judge
from pipeline.corpus.readers import Row, Unreadable
from pipeline.corpus.rows import REJECTED_COLUMNS, Corpus, frame
from pipeline.corpus.squad import read_questions

COLUMNS = ANSWERS.columns(with_pair=True)
CONTEXT = "Anna went to Rome. 😀 She met Omar."  # offsets count the sign as one character
ANNA = {"id": "q1", "question": "Who met Omar?", "answers": [{"text": "Anna", "answer_start": 0}]}
OMAR = {"id": "q2", "question": "Whom?", "answers": [{"text": "Omar", "answer_start": 29}], "is_impossible": False}
NONE = {"id": "q3", "question": "Why?", "answers": [], "is_impossible": True, "plausible_answers": [ANNA["answers"]]}


def squad(*questions: Any, context: Any = CONTEXT) -> dict[str, Any]:
    return {"version": "v2.0", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": list(questions)}]}]}


def read(path: Path, content: Any) -> list[Row | Unreadable]:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return list(read_questions(path))


def reasons(found: list[Row | Unreadable]) -> list[str]:
    return [row.reason for row in found if isinstance(row, Unreadable)]


def test_both_versions_are_read_plain_and_compressed(tmp_path: Path) -> None:
    content = squad(ANNA, OMAR, NONE)
    found = read(tmp_path / "a.json", content)
    assert found == [
        Row(1, {"id": "q1", "text": CONTEXT, "pair": "Who met Omar?", "answers": ANNA["answers"]}),
        Row(2, {"id": "q2", "text": CONTEXT, "pair": "Whom?", "answers": OMAR["answers"]}),
        Row(3, {"id": "q3", "text": CONTEXT, "pair": "Why?", "answers": []}),
    ]
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(json.dumps(content).encode()))
    (tmp_path / "a.json.zst").write_bytes(zstandard.compress(json.dumps(content).encode()))
    for name in ("a.json.gz", "a.json.zst"):
        assert list(read_questions(tmp_path / name)) == found


def test_a_broken_file_says_where_it_breaks(tmp_path: Path) -> None:
    [broken] = read(tmp_path / "a.json", '{"data": [\n  {"paragraphs" []}\n]}')
    assert broken == Unreadable(2, "not JSON: Expecting ':' delimiter, line 2 column 17", '  {"paragraphs" []}')
    (tmp_path / "b.json").write_bytes(b'{"data":\n"caf\xe9"}')
    assert next(read_questions(tmp_path / "b.json"))[:2] == (2, "not UTF-8: byte 0xe9")
    (tmp_path / "c.json.gz").write_bytes(gzip.compress(b"[" * 1000)[:-9])
    assert "not a whole gzip file" in reasons(list(read_questions(tmp_path / "c.json.gz")))[0]
    assert reasons(read(tmp_path / "d.json", "[" * 100_000)) == ["not JSON: nested too deeply"]


def test_what_is_not_in_the_form_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    content = squad(ANNA, 3, {**NONE, "answers": OMAR["answers"]}, {**OMAR, "answers": []})
    content["data"] += [{"title": "no paragraphs"}, {"paragraphs": [{"context": "c"}, "x"]}]
    found = read(tmp_path / "a.json", content)
    assert [row.values["id"] for row in found if isinstance(row, Row)] == ["q1"]
    assert reasons(found) == [
        "not in SQuAD's form: data[0].paragraphs[0].qas[1] is no object",
        "it has answers, and is_impossible is true",
        "it has no answers, and is_impossible is false",
        "not in SQuAD's form: data[1] has no list 'paragraphs'",
        "not in SQuAD's form: data[2].paragraphs[0] has no list 'qas'",
        "not in SQuAD's form: data[2].paragraphs[1] is no object",
    ]
    assert reasons(read(tmp_path / "b.json", [])) == ["not in SQuAD's form: the file has no list 'data'"]


def corpus_of(folder: Path, path: str, **task: Any) -> Corpus:
    (folder / "text.txt").write_text("text", encoding="utf-8")
    settings = Source.model_validate({"kind": "files", "path": str(folder), "documents": ["text.txt"]})
    return read_files(settings, {"qa": Task.model_validate({"kind": "question_answering", "path": path, **task})}, 1)


def test_a_squad_file_becomes_rows_and_a_context_is_of_one_split(tmp_path: Path) -> None:
    content: dict[str, Any] = {"data": [{"paragraphs": []}]}
    for number in range(30):
        context = f"Number {number} is here."
        asked = [
            {"id": f"{number}-{k}", "question": f"{k}?", "answers": [{"text": str(number), "answer_start": 7}]}
            for k in range(3)
        ]
        content["data"][0]["paragraphs"].append({"context": context, "qas": asked})
    content["data"][0]["paragraphs"].append({"context": "lost", "qas": [{"id": "x", "question": "no answers?"}]})
    (tmp_path / "squad.json").write_text(json.dumps(content), encoding="utf-8")
    corpus = corpus_of(tmp_path, "squad.json")
    rows = corpus.tasks["qa"]
    assert rows.columns.to_list() == COLUMNS
    assert len(rows) == 90
    assert set(rows["split"]) == {"train", "validation", "test"}
    assert (rows.groupby("text")["split"].nunique() == 1).all()
    assert rows["answers"][0] == answers_to_json([Answer(7, "0")])
    assert corpus.rejected[["id", "reason"]].to_numpy().tolist() == [
        ["squad.json:91", """'answers' is missing, not a list of {"start", "text"}"""]
    ]


def test_tables_have_answers_as_lists_or_in_squads_columns(tmp_path: Path) -> None:
    lines = [
        {"text": "See Rome", "question": "What?", "answers": [{"start": 4, "text": "Rome"}]},
        {"text": "See Oslo", "question": "What?", "answers": {"text": ["Oslo"], "answer_start": [4]}},
        {"text": "See Lima", "question": "Why?", "answers": []},
        {"text": "See Kyiv", "question": "What?", "answers": {"text": ["Kyiv"], "answer_start": []}},
        {"text": "x", "question": "What?", "answers": [{"start": 0.5, "text": "x"}]},
        {"text": "y", "question": None, "answers": []},
        {"text": "z", "question": "What?", "answers": [{"start": 0, "text": 3}]},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    corpus = corpus_of(tmp_path, "a.jsonl")
    found = [answers_from_json(content) for content in corpus.tasks["qa"]["answers"]]
    assert found == [[Answer(4, "Rome")], [Answer(4, "Oslo")], []]
    assert corpus.rejected["id"].to_list() == ["a.jsonl:4", "a.jsonl:5", "a.jsonl:6", "a.jsonl:7"]
    assert corpus.rejected["reason"][2] == "'question' is missing, not text"
    found_by = [{"text": ["Rome"], "answer_start": [0]}, {"text": [], "answer_start": []}]
    table = pa.table({"context": ["Rome", "Oslo"], "ask": ["?", "?"], "answers": found_by})
    pq.write_table(table, tmp_path / "b.parquet")
    rows = corpus_of(tmp_path, "b.parquet", text_column="context", pair_column="ask").tasks["qa"]
    assert [answers_from_json(content) for content in rows["answers"]] == [[Answer(0, "Rome")], []]


def test_questions_that_have_no_answer_at_all_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x", "question": "y", "answers": []}\n', encoding="utf-8")
    with pytest.raises(HallmarkError, match=r"tasks\.qa: not one of the 1 questions has an answer"):
        corpus_of(tmp_path, "a.jsonl")


def test_answers_that_are_not_in_the_context_are_set_aside_with_the_reason(tmp_path: Path) -> None:
    table = [
        (
            f"{split}{number}",
            f"Rome {number} {split}",
            "Where?",
            "[]" if number == 0 else answers((0, "Rome")),
            split,
            "f",
        )
        for split in ("train", "validation", "test")
        for number in range(20)
    ]
    bad = {
        "elsewhere": answers((1, "Rome")),
        "outside": answers((14, "elsewhere")),
        "negative": answers((-4, "Rome")),
        "empty": answers((5, "")),
        "second": answers((5, "Rome"), (0, "rome")),
    }
    table += [(name, f"See, Rome {name}", "Where?", content, "train", "f") for name, content in bad.items()]
    verdict = judge(
        "tasks/qa",
        frame(table, COLUMNS),
        frame([], REJECTED_COLUMNS),
        Validate(max_quarantined_share=0.2),
        Examiner(tmp_path / "docs"),
    )
    assert verdict.faults == []
    assert verdict.clean.columns.to_list() == COLUMNS
    found = dict(zip(verdict.quarantined["id"], verdict.quarantined["reasons"], strict=True))
    assert {name: reason.split(" ")[0] for name, reason in found.items()} == {
        "elsewhere": "answer_misplaced",
        "outside": "answer_outside",
        "negative": "answer_outside",
        "empty": "answer_empty",
        "second": "answer_misplaced",
    }
    assert describe_outcomes(verdict.outcomes)["no_answer_known"]["success"]


def answers(*found: tuple[int, str]) -> str:
    return answers_to_json([Answer(*each) for each in found])


def test_a_fault_says_what_stands_there() -> None:
    table = frame([("a", "See Rome", "?", answers((0, "Rome")), "train", "f")], COLUMNS)
    assert find_faults(table)["answer_misplaced"] == ["0 'Rome', where 'See ' stands"]


def test_tables_without_an_answer_to_learn_are_refused_and_unlearned_refusals_are_told(tmp_path: Path) -> None:
    rows = [
        (split, f"{split} Rome", "Where?", answers((len(split) + 1, "Rome")) if split == answered else "[]", split, "f")
        for answered in ("train", "test")
        for split in ("train", "validation", "test")
    ]
    verdicts = [
        judge(
            "tasks/qa",
            frame(part, COLUMNS),
            frame([], REJECTED_COLUMNS),
            Validate(),
            Examiner(tmp_path / f"docs{place}"),
        )
        for place, part in enumerate((rows[:3], rows[3:]))
    ]
    assert verdicts[0].faults == []
    assert describe_outcomes(verdicts[0].outcomes)["no_answer_known"]["rows"] == 2
    assert any("answers_to_learn" in fault for fault in verdicts[1].faults)
