"""A question about each text, and the places in the text that answer it; none: the text does not answer it."""

import json
from collections.abc import Iterator
from operator import index
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.common.answers import Answer, answers_from_json, answers_to_json
from pipeline.common.params import Task, Validate
from pipeline.corpus.checks import INFO, Check, distinct_at_least, none_has
from pipeline.corpus.forms.form import Faults, Form, counts_by_split, is_unique
from pipeline.corpus.readers import Row, Unreadable
from pipeline.corpus.splitting import TRAIN
from pipeline.corpus.squad import SQUAD_FORMATS, read_questions

FAULTS = {
    "answer_empty": "every answer has a visible character",
    "answer_outside": "every answer lies in its text",
    "answer_misplaced": "every answer stands in its text where it says",
}
NO_ANSWERS = answers_to_json([])
SHOWN = 40  # characters of an answer in a message


def parse(value: Any) -> str | None:
    """A list of {"start": int, "text": str} (or "answer_start", as SQuAD calls it), or SQuAD's columns
    {"text": [str, ...], "answer_start": [int, ...]}, also as JSON text, in the form that tables hold.
    """
    try:
        found = json.loads(value) if isinstance(value, str) else value
        if isinstance(found, dict):
            pairs = zip(found["answer_start"], found["text"], strict=True)
        else:
            pairs = ((each["start"] if "start" in each else each["answer_start"], each["text"]) for each in found)
        answers = [Answer(index(start), text) for start, text in pairs]
    except (TypeError, KeyError, ValueError, RecursionError):
        return None
    return answers_to_json(answers) if all(isinstance(answer.text, str) for answer in answers) else None


def read_squad(path: Path, task: Task) -> Iterator[Row | Unreadable]:
    return read_questions(path)


def find_faults(table: pd.DataFrame) -> Faults:
    """For each of `FAULTS` the first answer of each question that has it, None where none has."""
    faults: Faults = {name: [None] * len(table) for name in FAULTS}
    for row, (text, content) in enumerate(zip(table["text"], table["answers"], strict=True)):
        for answer in answers_from_json(content) if content else []:
            name, what = _fault(text, answer)
            if name and faults[name][row] is None:
                faults[name][row] = what
    return faults


def _fault(text: str, answer: Answer) -> tuple[str, str]:
    """The name of what is wrong with an answer, and the answer with its place; two empty strings: nothing is."""
    what = f"{answer.start} {answer.text[:SHOWN]!r}"
    if not answer.text.strip():
        return "answer_empty", what
    if not 0 <= answer.start < answer.end <= len(text):
        return "answer_outside", what
    there = text[answer.start : answer.end]
    return ("answer_misplaced", f"{what}, where {there[:SHOWN]!r} stands") if there != answer.text else ("", "")


def check(settings: Validate, table: pd.DataFrame) -> tuple[pd.DataFrame, list[Check]]:
    """Add `training_answers` (of a training row with an answer) and `unlearned` (of a row without one, where training
    has no such row); missing elsewhere.
    """
    answered, training = table["answers"] != NO_ANSWERS, (table["split"] == TRAIN) & is_unique(table)
    learned = bool((training & ~answered).any())
    table = table.assign(
        training_answers=table["answers"].where(training & answered),
        unlearned=table["id"].where(~answered & ~training & (not learned)),
    )
    return table, [
        distinct_at_least("answers_to_learn", "a question of the training split has an answer", "training_answers", 1),
        none_has(
            "no_answer_known",
            "questions without an answer are in the training split, too, if they are anywhere",
            "unlearned",
            INFO,
        ),
    ]


def describe(table: pd.DataFrame) -> dict[str, Any]:
    kinds = (table["answers"] != NO_ANSWERS).map({True: "answerable", False: "unanswerable"})
    return {"questions": counts_by_split(kinds, table)}


def refuse(targets: list[str]) -> str | None:
    return f"not one of the {len(targets)} questions has an answer" if set(targets) == {NO_ANSWERS} else None


ANSWERS = Form(
    target="answers",
    wording='a list of {"start", "text"}',
    parse=parse,
    checks=check,
    describe=describe,
    refuse=refuse,
    pair="question",
    faults=FAULTS,
    find_faults=find_faults,
    readers=dict.fromkeys(SQUAD_FORMATS, read_squad),
)
