"""Dialogues in files: messages, prompts with answers, and what is wrong with them."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.common.dialogues import messages_from_json
from pipeline.common.params import Source, Task, Validate
from pipeline.corpus.describing import describe
from pipeline.corpus.expectations import Examiner
from pipeline.corpus.files import read_files
from pipeline.corpus.forms.dialogues import DIALOGUES, FAULTS, find_faults, parse
from pipeline.corpus.forms.kinds import form_of
from pipeline.corpus.quarantine import judge
from pipeline.corpus.rows import REJECTED_COLUMNS, Corpus, frame

HELLO = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]


def read(folder: Path, task: dict[str, Any], files: dict[str, str]) -> Corpus:
    (folder / "book.txt").write_text("A line.\nAnother one.\n", encoding="utf-8")
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
    source = Source.model_validate({"kind": "files", "path": str(folder), "documents": ["*.txt"]})
    return read_files(source, {"chat": Task.model_validate({"kind": "dialogue"} | task)}, seed=1)


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def test_messages_are_read_and_their_transcript_is_the_text(tmp_path: Path) -> None:
    several = [{"role": "system", "content": "你好"}, *HELLO, *HELLO]
    rows = [{"messages": HELLO, "name": None}, {"messages": json.dumps(several)}, {"messages": [*HELLO[:1]]}]
    corpus = read(tmp_path, {"path": "chat.jsonl"}, {"chat.jsonl": lines(rows)})
    table = corpus.tasks["chat"]
    assert table.columns.to_list() == ["id", "text", "messages", "split", "group"]
    assert table["text"].to_list()[0] == "user: Hello\nassistant: Hi!"
    assert [len(messages_from_json(content)) for content in table["messages"]] == [2, 5, 1]
    assert form_of(table.columns.to_list()) is DIALOGUES
    described = describe(table.assign(split="train"))
    assert described["messages"] == {"train": {"assistant": 3, "system": 1, "user": 4}}


def test_messages_in_parquet_and_as_json_text_are_the_same_rows(tmp_path: Path) -> None:
    pq.write_table(pa.table({"messages": [HELLO]}), tmp_path / "a.parquet")
    corpus = read(tmp_path, {"path": "a.parquet"}, {})
    other = read(tmp_path, {"path": "b.tsv"}, {"b.tsv": f"messages\n{json.dumps(HELLO)}\n"})
    assert corpus.tasks["chat"]["messages"].to_list() == other.tasks["chat"]["messages"].to_list()


def test_a_named_answer_column_makes_one_turn_of_each_side(tmp_path: Path) -> None:
    task = {"path": "qa.csv", "text_column": "instruction", "label_column": "response"}
    content = 'instruction,response\nAdd 1 and 1.,2\n"[{""role"": ""user""}]",fine\nSay it.,\n'
    corpus = read(tmp_path, task, {"qa.csv": content})
    table = corpus.tasks["chat"]
    first, attack, empty = (messages_from_json(content) for content in table["messages"])
    assert [message.content for message in first] == ["Add 1 and 1.", "2"]
    assert [message.role for message in first] == ["user", "assistant"]
    assert attack[0].content == '[{"role": "user"}]'
    assert empty[1].content == ""
    assert find_faults(table)["content_not_empty"] == [None, None, "message 2: assistant"]


@pytest.mark.parametrize(
    "value",
    [
        None,
        "",
        "Hello",
        "[]",
        [],
        {"role": "user"},
        [{"role": "user"}],
        [{"role": "user", "content": 5}],
        ["Hello"],
        [HELLO[0] | {"tool_calls": [1]}],
        [HELLO[0] | {"content": [{"type": "text", "text": "x"}]}],
    ],
)
def test_what_is_no_list_of_messages_is_none(value: Any) -> None:
    assert parse(value) is None


def test_rows_that_are_no_dialogues_are_set_aside_with_their_place(tmp_path: Path) -> None:
    rows = [{"messages": HELLO}, {"messages": "Hello"}, {"messages": None}, {"text": "Hello"}]
    corpus = read(tmp_path, {"path": "chat.jsonl"}, {"chat.jsonl": lines(rows)})
    assert len(corpus.tasks["chat"]) == 1
    assert corpus.rejected["id"].to_list() == ["chat.jsonl:2", "chat.jsonl:3", "chat.jsonl:4"]
    assert corpus.rejected["reason"][0] == """'messages' is 'Hello' (str), not a list of {"role", "content"}"""
    numbers = {
        "qa.jsonl": lines([{"ask": "Hello", "say": "Hi"}, {"ask": "How many?", "say": 5}, {"ask": 5, "say": "x"}])
    }
    asked = read(tmp_path, {"path": "qa.jsonl", "text_column": "ask", "label_column": "say"}, numbers)
    assert asked.rejected["reason"].to_list() == ["'say' is 5 (int), not text", "'ask' is 5 (int), not text"]


def test_every_fault_of_a_dialogue_has_its_name() -> None:
    say = {role: {"role": role, "content": "x"} for role in ("system", "user", "assistant", "human")}
    dialogues = [
        HELLO,
        [say["user"], say["user"], say["assistant"]],  # two turns in a row are one side's right
        [say["user"], say["human"], say["assistant"]],
        [say["user"], say["assistant"], say["system"]],
        [say["user"]],
        [say["user"], say["assistant"] | {"content": " \n"}],
    ]
    table = pd.DataFrame({"messages": [parse(messages) for messages in dialogues]})
    found = find_faults(table)
    assert set(found) == set(FAULTS)
    assert [[name for name in FAULTS if found[name][row]] for row in range(len(dialogues))] == [
        [],
        [],
        ["role_known"],
        ["system_first"],
        ["has_answer"],
        ["content_not_empty"],
    ]
    assert found["role_known"][2] == "message 2: human"


def test_faulty_dialogues_and_copies_are_set_aside_with_their_reasons(tmp_path: Path) -> None:
    splits = [f"{split}-{number}" for split in ("train", "test", "validation") for number in range(8)]
    dialogues = [[{"role": "user", "content": name}, {"role": "assistant", "content": "Yes."}] for name in splits]
    dialogues += [dialogues[0], [{"role": "human", "content": "Hello, who is there?"}]]
    targets = [parse(messages) for messages in dialogues]
    rows = [
        (f"r{number}", DIALOGUES.text_of(target), target, name.split("-")[0], "chat.jsonl")
        for number, (target, name) in enumerate(zip(targets, [*splits, "train-8", "train-9"], strict=True))
        if target and DIALOGUES.text_of
    ]
    table = frame(rows, DIALOGUES.columns(with_pair=False))
    limits = Validate(max_quarantined_share=0.1, max_duplicate_share=0.1)
    found = judge("tasks/chat", table, frame([], REJECTED_COLUMNS), limits, Examiner(tmp_path))
    assert found.faults == []
    assert len(found.clean) == 24
    reasons = dict(zip(found.quarantined["id"], found.quarantined["reasons"], strict=True))
    assert reasons["r24"] == "duplicate of r0"
    assert reasons["r25"].startswith("role_known (expected: every role is system, user or assistant); has_answer")
