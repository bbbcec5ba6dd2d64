"""Labelled spans in each text."""

import json
from collections.abc import Iterator
from operator import index
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.common.params import Task, Validate
from pipeline.common.spans import Span, spans_from_json, spans_to_json
from pipeline.corpus.checks import Check
from pipeline.corpus.conll import CONLL_FORMATS, read_sentences
from pipeline.corpus.forms.form import Faults, Form, as_name, check_labels, compare_splits, counts_by_split
from pipeline.corpus.readers import Row, Unreadable

FAULTS = {
    "span_outside": "every span lies in its text and has a character",
    "span_blank": "no span begins or ends with white space",
    "span_overlap": "no two spans of a text overlap",
}


def parse(value: Any) -> str | None:
    """A list of {"start": int, "end": int, "label": str}, also as JSON text, in the form that tables hold."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
        spans = [Span(index(span["start"]), index(span["end"]), as_name(span["label"]) or "") for span in found]
    except (TypeError, KeyError, ValueError, RecursionError):
        return None
    return spans_to_json(spans) if all(span.label for span in spans) else None


def read_conll(path: Path, task: Task) -> Iterator[Row | Unreadable]:
    return read_sentences(path, task.tag_column)


def find_faults(table: pd.DataFrame) -> Faults:
    """For each of `FAULTS` the first span of each text that has it, None where none has."""
    faults: Faults = {name: [None] * len(table) for name in FAULTS}
    for row, (text, content) in enumerate(zip(table["text"], table["spans"], strict=True)):
        end = 0
        for span in spans_from_json(content) if content else []:
            words = text[max(span.start, 0) : max(span.end, 0)]
            found = {
                "span_outside": not 0 <= span.start < span.end <= len(text),
                "span_blank": words != words.strip(),
                "span_overlap": span.start < end,
            }
            for name in (name for name, is_fault in found.items() if is_fault and faults[name][row] is None):
                faults[name][row] = f"{span.start}-{span.end} {span.label}"
            end = max(end, span.end)
    return faults


def check(settings: Validate, table: pd.DataFrame) -> tuple[pd.DataFrame, list[Check]]:
    something = "a text of the training split has a span"
    return compare_splits(table, span_labels(table["spans"])), check_labels(something, "span")


def span_labels(column: "pd.Series[str]") -> "pd.Series[str]":
    """The label of every span, one after another, each with the index of its row."""
    labels = column.map(lambda content: [span.label for span in spans_from_json(content)]).explode()
    return labels.dropna().astype("str")


def describe(table: pd.DataFrame) -> dict[str, Any]:
    return {"spans": counts_by_split(span_labels(table["spans"]), table)}


def refuse(targets: list[str]) -> str | None:
    return f"not one of the {len(targets)} texts has a span" if set(targets) == {spans_to_json([])} else None


SPANS = Form(
    target="spans",
    wording='a list of {"start", "end", "label"}',
    parse=parse,
    checks=check,
    describe=describe,
    refuse=refuse,
    faults=FAULTS,
    find_faults=find_faults,
    readers=dict.fromkeys(CONLL_FORMATS, read_conll),
)
