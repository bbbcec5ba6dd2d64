"""Dialogues of several turns, or a prompt and its answer."""

import json
from typing import Any

import pandas as pd

from pipeline.common.dialogues import (
    ASSISTANT,
    ROLES,
    SYSTEM,
    USER,
    Message,
    messages_from_json,
    messages_to_json,
    transcript,
)
from pipeline.common.params import Validate
from pipeline.corpus.checks import Check
from pipeline.corpus.forms.form import Faults, Form, counts_by_split

FAULTS = {
    "role_known": f"every role is {', '.join(ROLES[:-1])} or {ROLES[-1]}",
    "content_not_empty": "every message has a visible character",
    "system_first": "a message of the system is the first one",
    "has_answer": "the assistant says something",
}


def parse(value: Any) -> str | None:
    """A list of {"role": str, "content": str}, also as JSON text, in the form that tables hold.

    Other keys may be there if they are null: what they said would be lost.
    """
    try:
        found = json.loads(value) if isinstance(value, str) else value
        messages = [Message(message["role"], message["content"]) for message in found]
        other = [key for message in found for key, said in message.items() if key not in Message._fields and said]
    except (TypeError, KeyError, ValueError, AttributeError, RecursionError):
        return None
    strings = all(isinstance(part, str) for message in messages for part in message)
    return messages_to_json(messages) if messages and strings and not other else None


def answered(prompt: str, answer: Any) -> Any:
    """One turn of each side, where a row has a prompt and its answer."""
    return [{"role": USER, "content": prompt}, {"role": ASSISTANT, "content": answer}]


def find_faults(table: pd.DataFrame) -> Faults:
    """For each of `FAULTS` the first message of each dialogue that has it, None where none has."""
    found = [_faults(messages_from_json(content) if content else []) for content in table["messages"]]
    return {name: [faults.get(name) for faults in found] for name in FAULTS}


def _faults(messages: list[Message]) -> dict[str, str]:
    faults: dict[str, str] = {}
    for place, (role, content) in enumerate(messages):
        wrong = {
            "role_known": role not in ROLES,
            "content_not_empty": not content.strip(),
            "system_first": role == SYSTEM and place > 0,
        }
        for name in (name for name, is_wrong in wrong.items() if is_wrong):
            faults.setdefault(name, f"message {place + 1}: {role}")
    if all(message.role != ASSISTANT for message in messages):
        faults["has_answer"] = f"{len(messages)} messages"
    return faults


def check(settings: Validate, table: pd.DataFrame) -> tuple[pd.DataFrame, list[Check]]:
    return table, []


def describe(table: pd.DataFrame) -> dict[str, Any]:
    """How many messages of each role there are."""
    roles = table["messages"].map(lambda content: [message.role for message in messages_from_json(content)])
    return {"messages": counts_by_split(roles.explode().astype("str"), table)}


def text_of(target: str) -> str:
    return transcript(messages_from_json(target))


DIALOGUES = Form(
    target="messages",
    wording='a list of {"role", "content"}',
    parse=parse,
    checks=check,
    describe=describe,
    faults=FAULTS,
    find_faults=find_faults,
    text_of=text_of,
    join=answered,
)
