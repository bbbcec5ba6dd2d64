"""Labelled spans of a text, and how a table holds them: as JSON text, always the same for the same spans."""

import json
from collections.abc import Iterable
from typing import NamedTuple


class Span(NamedTuple):
    """`text[start:end]` has this label. Offsets count characters (Unicode code points), not bytes."""

    start: int
    end: int
    label: str


def spans_to_json(spans: Iterable[Span]) -> str:
    """`[{"start": 0, "end": 3, "label": "x"}, ...]`, in the order of the text."""
    return json.dumps([span._asdict() for span in sorted(spans)], ensure_ascii=False)


def spans_from_json(content: str) -> list[Span]:
    """The spans that `spans_to_json` wrote."""
    return [Span(found["start"], found["end"], found["label"]) for found in json.loads(content)]
