"""Dialogues, and how a table holds them: as JSON text, always the same for the same messages."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
ROLES = (SYSTEM, USER, ASSISTANT)


class Message(NamedTuple):
    """What one side says."""

    role: str
    content: str


def messages_to_json(messages: Iterable[Message]) -> str:
    """`[{"role": "user", "content": "Hello"}, ...]`, in their order."""
    return json.dumps([message._asdict() for message in messages], ensure_ascii=False)


def messages_from_json(content: str) -> list[Message]:
    """The messages that `messages_to_json` wrote."""
    return read_messages(json.loads(content))


def read_messages(found: Iterable[Mapping[str, Any]]) -> list[Message]:
    """The messages of mappings with "role" and "content"."""
    return [Message(message["role"], message["content"]) for message in found]


def transcript(messages: Iterable[Message]) -> str:
    """The dialogue for people: `role: content`, a message behind the other."""
    return "\n".join(f"{message.role}: {message.content}" for message in messages)


def through_last_answer(messages: Sequence[Message]) -> list[Message]:
    """The messages up to the last of the assistant's; none without one."""
    last = max((place for place, message in enumerate(messages) if message.role == ASSISTANT), default=-1)
    return list(messages[: last + 1])
