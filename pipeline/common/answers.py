"""Answers that stand in a text, and how a table holds them: as JSON text, always the same for the same answers."""

import json
from collections.abc import Iterable
from typing import NamedTuple


class Answer(NamedTuple):
    """`context[start:start + len(text)] == text`. Offsets count characters (Unicode code points), not bytes."""

    start: int
    text: str

    @property
    def end(self) -> int:
        return self.start + len(self.text)


def answers_to_json(answers: Iterable[Answer]) -> str:
    """`[{"start": 0, "text": "x"}, ...]`, in the given order; `[]`: the context holds no answer."""
    return json.dumps([answer._asdict() for answer in answers], ensure_ascii=False)


def answers_from_json(content: str) -> list[Answer]:
    """The answers that `answers_to_json` wrote."""
    return [Answer(found["start"], found["text"]) for found in json.loads(content)]
