"""What is wrong with a user's files, said before anything is built: every sort of fault, with file and row."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.common.errors import HallmarkError
from pipeline.common.params import Params, render
from pipeline.corpus.check_data import Findings, check_data

SPLITS = ["train", "train", "train", "validation", "test"]
MOOD = {"path": "labels.csv", "split_column": "split"}
NAMES = {"kind": "token_classification", "path": "names/*.conll"}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with documents, labels and named entities that are as they should be."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "own"
    (folder / "names").mkdir(parents=True)
    for number in range(4):
        (folder / f"{number}.txt").write_text(f"Document {number}.\n" * 9, encoding="utf-8")
    write_labels(folder, [])
    for split, count in (("train", 60), ("dev", 10), ("test", 10)):
        sentences = "".join(f"{split}{number} O\nAnna B-person\nBell I-person\n\n" for number in range(count))
        (folder / "names" / f"{split}.conll").write_text(sentences, encoding="utf-8")
    return folder


def write_labels(folder: Path, lines: list[bytes]) -> None:
    good = [f"评论 {number},{'ab'[number // 5 % 2]},{SPLITS[number % 5]}".encode() for number in range(200)]
    (folder / "labels.csv").write_bytes(b"\n".join([b"text,label,split", *good, *lines]) + b"\n")


def settings(tasks: dict[str, Any], **validate: Any) -> Params:
    source = {"kind": "files", "path": "own", "documents": ["*.txt"]}
    return Params.model_validate({"source": source, "tasks": tasks, "validate": validate})


def check(tasks: dict[str, Any], task: str | None = None, **validate: Any) -> Findings:
    return check_data(settings(tasks, **validate), task)


def rows_of(findings: Findings, fault: str) -> list[tuple[str, str]]:
    """The rows of the one group whose fault has these words."""
    [group] = [group for table in findings.tables for group in table.groups if fault in group.fault]
    return group.rows


def test_good_files_have_nothing_wrong(own: Path) -> None:
    findings = check({"mood": MOOD, "names": NAMES})
    assert list(findings.lines()) == [
        "tasks/mood: 200 rows, 200 can be used",
        "tasks/names: 80 rows, 80 can be used",
        "documents: 4 rows, 4 can be used",
        "the build would go on: nothing is wrong",
    ]
    assert not findings.stops


def test_each_bad_row_is_told_with_its_place(own: Path) -> None:
    lines = [b",a,train", b"never seen,c,test", b"no label,,train", b"one field", b"wrong \xff byte,a,train"]
    lines += ["评论 0,a,train".encode(), b"control \x07\x07,a,test"]
    write_labels(own, lines)
    findings = check({"mood": MOOD}, max_quarantined_share=0.05)
    assert rows_of(findings, "text_not_empty (expected: every text") == [("labels.csv:202", "")]
    assert rows_of(findings, "label_known") == [("labels.csv:203", "c")]
    assert rows_of(findings, "not readable") == [
        ("labels.csv:204", "'label' is empty, not a label"),
        ("labels.csv:205", "1 fields, the header has 3"),
    ]
    assert rows_of(findings, "not UTF-8") == [("labels.csv:206", "not UTF-8: byte 0xff")]
    assert rows_of(findings, "no_duplicate") == [("labels.csv:207", "duplicate of labels.csv:2")]
    assert rows_of(findings, "control_characters")[0][0] == "labels.csv:208"
    assert not findings.stops
    assert check({"mood": MOOD}).stops  # 3 % are more than the budget
    printed = "\n".join(findings.lines())
    assert "tasks/mood: 207 rows, 200 can be used" in printed
    assert "  2 x not readable\n      labels.csv:204  'label' is empty, not a label\n" in printed
    assert printed.endswith("the build would go on, without the rows above")


def test_duplicate_ids_have_their_places_although_they_have_no_other(own: Path) -> None:
    rows = "".join(f"{number % 99},text {number},{'ab'[number % 2]}\n" for number in range(100))
    (own / "labels.csv").write_text(f"key,text,label\n{rows}", encoding="utf-8")
    findings = check({"mood": {"path": "labels.csv", "id_column": "key"}})
    assert rows_of(findings, "id_unique") == [("labels.csv:2", "0"), ("labels.csv:101", "0")]


def test_broken_tags_and_spans_outside_their_text_are_told(own: Path) -> None:
    with (own / "names" / "train.conll").open("a", encoding="utf-8") as handle:
        handle.write("Rome I-place\n\nalone\n")
    (own / "spans.jsonl").write_text(
        "".join(
            json.dumps({"text": f"Anna {number}", "spans": [{"start": 0, "end": end, "label": "person"}]}) + "\n"
            for number, end in enumerate([4] * 80 + [40, 5])
        ),
        encoding="utf-8",
    )
    spans = {"kind": "token_classification", "path": "spans.jsonl"}
    findings = check({"names": NAMES, "spans": spans}, max_quarantined_share=0.1)
    assert rows_of(findings, "not readable") == [
        ("names/train.conll:241", "I-place at word 1 follows the beginning: no span that it could go on with"),
        ("names/train.conll:243", "line 243 has 1 column: no word and tag in them"),
    ]
    assert rows_of(findings, "span_outside") == [("spans.jsonl:81", "0-40 person")]
    assert rows_of(findings, "span_blank") == [("spans.jsonl:82", "0-5 person")]
    assert [table.table for table in check({"names": NAMES, "spans": spans}, task="names").tables] == ["tasks/names"]


def test_answers_that_are_not_in_the_context_are_told(own: Path) -> None:
    rows = [
        {"text": f"Anna {number} went home.", "question": "Who?", "answers": [{"start": start, "text": answer}]}
        for number, (start, answer) in enumerate([(0, "Anna")] * 80 + [(0, "Bell"), (99, "home")])
    ]
    (own / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    questions = {"kind": "question_answering", "path": "questions.jsonl"}
    findings = check({"who": questions}, max_quarantined_share=0.1)
    assert rows_of(findings, "answer_misplaced") == [("questions.jsonl:81", "0 'Bell', where 'Anna' stands")]
    assert rows_of(findings, "answer_outside") == [("questions.jsonl:82", "99 'home'")]


def write_rows(folder: Path, rows: list[dict[str, Any] | bytes]) -> None:
    lines = [row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode() for row in rows]
    (folder / "rows.jsonl").write_bytes(b"\n".join(lines))


def of_splits(make: Callable[[int], dict[str, Any]]) -> list[dict[str, Any] | bytes]:
    """100 good rows of all splits: the bad ones are behind them, from line 101 on."""
    return [{"split": SPLITS[number % 5]} | make(number) for number in range(100)]


def told(findings: Findings) -> dict[str, list[tuple[str, str]]]:
    """Places (the lines) and values of each fault, by its first words."""
    groups = [group for table in findings.tables for group in table.groups]
    return {
        group.fault.partition(" (")[0]: [(place.rpartition(":")[2], value) for place, value in group.rows]
        for group in groups
    }


def test_every_fault_of_texts_with_several_labels_is_told(own: Path) -> None:
    good = of_splits(lambda n: {"text": f"text {n}", "labels": [["a"], ["a", "b"], []][n % 3]})
    bad: list[dict[str, Any] | bytes] = [
        {"text": "new", "labels": ["a", "never seen"], "split": "test"},
        {"text": " ", "labels": ["a"], "split": "test"},
        {"text": "none", "labels": None, "split": "test"},
        {"text": "text 4", "labels": ["a"], "split": "test"},
        b'{"text": "\xe9", "labels": ["a"], "split": "test"}',
        {"text": "where", "labels": ["a"], "split": "elsewhere"},
    ]
    write_rows(own, good + bad)
    task = {"kind": "multi_label_classification", "path": "rows.jsonl", "split_column": "split"}
    assert told(check({"topics": task}, "topics", max_quarantined_share=0.1)) == {
        "not readable": [("103", "'labels' is missing, not a list of labels (also as text: a|b, a;b)")],
        "not UTF-8": [("105", "not UTF-8: byte 0xe9")],
        "text_not_empty": [("102", " ")],
        "split_name": [("106", "elsewhere")],
        "no_duplicate": [("104", "duplicate of rows.jsonl:5")],
        "label_known": [("101", "never seen")],
    }


def test_every_fault_of_pairs_is_told(own: Path) -> None:
    good = of_splits(lambda n: {"key": f"k{n}", "text": f"text {n}", "pair": "other", "label": "ab"[n // 5 % 2]})
    bad: list[dict[str, Any] | bytes] = [
        {"key": "k100", "text": "no other", "pair": "", "label": "a", "split": "train"},
        {"key": "k101", "text": "new", "pair": "other", "label": "never seen", "split": "test"},
        {"key": "k102", "text": "text 0", "pair": "other", "label": "a", "split": "train"},
        {"key": "k102", "text": "same key", "pair": "other", "label": "a", "split": "train"},
        {"key": "k103", "text": "text 0", "pair": "another", "label": "a", "split": "train"},
    ]
    write_rows(own, good + bad)
    task = {"path": "rows.jsonl", "pair_column": "pair", "id_column": "key", "split_column": "split"}
    assert told(check({"same": task}, "same", max_quarantined_share=0.1)) == {
        "pair_not_empty": [("101", "")],
        "id_unique": [("103", "k102"), ("104", "k102")],
        "label_known": [("102", "never seen")],
    }


def test_labels_of_spans_that_training_never_saw_are_told(own: Path) -> None:
    with (own / "names" / "test.conll").open("a", encoding="utf-8") as handle:
        handle.write("Rome B-place\n\n")
    assert told(check({"names": NAMES}, "names")) == {"label_known": [("41", "place")]}


def test_every_fault_of_questions_is_told(own: Path) -> None:
    def asked(context: str, question: str, *answers: tuple[int, str]) -> dict[str, Any]:
        found = [{"start": start, "text": text} for start, text in answers]
        return {"text": context, "question": question, "answers": found}

    rows = [asked(f"Anna {number} went home.", "Who?", (0, "Anna")) for number in range(100)]
    bad = [asked("", "Who?"), asked("Bell.", " "), asked("Bell.", "Why?", (0, " ")), asked("Bell.", "O?", (4, "Bell"))]
    write_rows(own, [*rows, *bad])
    task = {"kind": "question_answering", "path": "rows.jsonl"}
    found = told(check({"who": task}, "who", max_quarantined_share=0.1))
    assert found == {
        "text_not_empty": [("101", "")],
        "text_length": [("101", "")],
        "pair_not_empty": [("102", " ")],
        "answer_empty": [("103", "0 ' '")],
        "answer_outside": [("104", "4 'Bell'")],
    }


def test_every_fault_of_dialogues_is_told(own: Path) -> None:
    def dialogue(*messages: tuple[str, str]) -> dict[str, Any]:
        return {"messages": [{"role": role, "content": content} for role, content in messages]}

    user, answer = ("user", "What is snow?"), ("assistant", "Water.")
    good = of_splits(lambda n: dialogue(("user", f"What is {n}?"), answer))
    bad = [
        dialogue(user, ("robot", "Beep."), answer),
        dialogue(user, ("assistant", " ")),
        dialogue(user, ("system", "Be brief."), answer),
        dialogue(user),
        {"messages": "What is snow?"},
        dialogue(("user", "What is 0?"), answer),
    ]
    write_rows(own, [*good, *({"split": "train"} | row for row in bad)])
    task = {"kind": "dialogue", "path": "rows.jsonl", "split_column": "split"}
    assert told(check({"chat": task}, "chat", max_quarantined_share=0.1)) == {
        "not readable": [("105", "'messages' is 'What is snow?' (str), not a list of {\"role\", \"content\"}")],
        "role_known": [("101", "message 2: robot")],
        "content_not_empty": [("102", "message 2: assistant")],
        "system_first": [("103", "message 2: system")],
        "has_answer": [("104", "1 messages")],
        "no_duplicate": [("106", "duplicate of rows.jsonl:1")],
    }


def test_every_fault_of_parallel_files_is_told(own: Path) -> None:
    texts, targets = ([f"{word} {number}".encode() for number in range(100)] for word in ("a dog", "ein Hund"))
    texts += [b"", b"a cat", b"a caf\xe9", b"a dog 0"]
    targets += [b"nichts", b" ", b"ein Caf\xc3\xa9", b"ein Hund 0"]
    for name, lines in (("x.en", texts), ("x.de", targets)):
        (own / name).write_bytes(b"\n".join(lines) + b"\n")
    task = {"kind": "sequence_to_sequence", "path": "*.en", "target_path": "*.de"}
    assert told(check({"german": task}, "german", max_quarantined_share=0.1)) == {
        "not readable": [("102", "'target' is ' ' (str), not a text")],
        "not UTF-8": [("103", "not UTF-8 in x.en")],
        "text_not_empty": [("101", "")],
        "text_length": [("101", "")],
        "no_duplicate": [("104", "duplicate of x.en:1")],
    }
    (own / "x.de").write_bytes(b"\n".join(targets[:-1]) + b"\n")
    [problem] = check({"german": task}, "german").problems
    assert "x.en has 104 lines and own/x.de has 103: they are no pairs" in problem


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "shift_jis", "utf-8-sig"])
def test_a_file_in_another_encoding_is_told(own: Path, encoding: str) -> None:
    words = {"latin-1": "café", "utf-16": "café", "shift_jis": "日本語", "utf-8-sig": "日本語"}
    lines = [f"{words[encoding]} {number},{'ab'[number // 5 % 2]},{SPLITS[number % 5]}" for number in range(100)]
    (own / "labels.csv").write_bytes("\n".join(["text,label,split", *lines]).encode(encoding))
    findings = check({"mood": MOOD}, "mood")
    if encoding == "utf-8-sig":
        assert told(findings) == {}
        assert not findings.stops
    else:
        assert findings.stops
        assert "UTF-8: `iconv -f OLD -t UTF-8`)" in "\n".join(findings.lines())


def test_whole_files_and_rows_are_told_at_once(own: Path) -> None:
    write_labels(own, [b",a,train"])
    findings = check({"mood": MOOD, "names": NAMES | {"path": "nowhere/*.conll"}})
    assert rows_of(findings, "text_not_empty") == [("labels.csv:202", "")]
    assert [problem.partition(";")[0] for problem in findings.problems] == [
        "tasks.names.path: no file in own matches 'nowhere/*.conll'"
    ]
    assert findings.stops
    assert not check({"mood": MOOD, "names": NAMES | {"path": "nowhere/*.conll"}}, task="mood").stops


def test_a_task_without_files_has_nothing_to_check(own: Path) -> None:
    with pytest.raises(HallmarkError, match="every task has its rows from python-docs: there is no file to check"):
        check_data(Params())
    with pytest.raises(HallmarkError, match="there is no task 'moods'; allowed: mood"):
        check({"mood": MOOD}, task="moods")


def test_the_command_exits_with_what_the_build_would_do(own: Path) -> None:
    Path("dvc.yaml").touch()
    Path("params.yaml").write_text(render(settings({"mood": MOOD})), encoding="utf-8")
    done = CliRunner().invoke(app, ["check-data"])
    assert (done.exit_code, done.output.splitlines()[0]) == (0, "tasks/mood: 200 rows, 200 can be used")
    (own / "labels.csv").write_text("text,label,split\na,x,train\nb,x,dev\n", encoding="utf-8")
    done = CliRunner().invoke(app, ["check-data", "--task", "mood", "--json"])
    assert done.exit_code == 1
    found = json.loads(done.output)
    assert found["stops"]
    assert "one class only, 'x' in 2 rows" in found["problems"][1]
    assert sorted(str(path) for path in Path().rglob("*") if path.parent == Path()) == [
        "dvc.yaml",
        "own",
        "params.yaml",
    ]
