"""Files in SQuAD's format, versions 1.1 and 2.0: articles, their paragraphs, and the questions about each paragraph.

    {"data": [{"paragraphs": [{"context": "...", "qas": [
        {"id": "...", "question": "...", "answers": [{"text": "...", "answer_start": 0}], "is_impossible": false}
    ]}]}]}

See Rajpurkar et al. 2016 (arXiv:1606.05250) and Rajpurkar, Jia and Liang 2018 (arXiv:1806.03822). `is_impossible` may
be missing, as in version 1.1; `plausible_answers` of such questions are no answers and are not read.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.corpus.readers import Row, Unreadable, read_document

SQUAD_FORMATS = (".json",)


class BrokenFormError(Exception):
    """A part of the file is not as the format wants it; the message says where and how."""


def read_questions(path: Path) -> Iterator[Row | Unreadable]:
    """Yield each question, numbered from 1, with `text` (its context), `pair` (itself), `answers`, and `id` if it has
    one; or why it, or a part of the file, cannot be read.

    Args:
        path: plain or compressed.
    """
    content = read_document(path)
    if isinstance(content, Unreadable):
        yield content
        return
    try:
        whole = json.loads(content)
    except json.JSONDecodeError as error:
        line = content.splitlines()[error.lineno - 1 :][:1]
        yield Unreadable(
            error.lineno, f"not JSON: {error.msg}, line {error.lineno} column {error.colno}", "".join(line)
        )
        return
    except RecursionError:
        yield Unreadable(None, "not JSON: nested too deeply", "")
        return
    number = 0
    for found in _questions(whole):
        if isinstance(found, BrokenFormError):
            yield Unreadable(None, f"not in SQuAD's form: {found}", "")
            continue
        number += 1
        yield _row(number, *found)


def _questions(whole: Any) -> Iterator[tuple[Any, dict[str, Any]] | BrokenFormError]:
    """Each question with the context it is about, and every part that is not as it should be."""
    for place, article in _items(whole, "data", "the file"):
        if isinstance(article, BrokenFormError):
            yield article
            continue
        for inner, paragraph in _items(article, "paragraphs", place):
            if isinstance(paragraph, BrokenFormError):
                yield paragraph
                continue
            for _, question in _items(paragraph, "qas", inner):
                yield question if isinstance(question, BrokenFormError) else (paragraph.get("context"), question)


def _items(value: Any, key: str, place: str) -> Iterator[tuple[str, Any]]:
    """The objects of a list, each with its place; in place of what is none, a `BrokenFormError`."""
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, list):
        yield place, BrokenFormError(f"{place} has no list {key!r}")
        return
    for number, item in enumerate(found):
        inner = f"{'' if place == 'the file' else place + '.'}{key}[{number}]"
        yield inner, item if isinstance(item, dict) else BrokenFormError(f"{inner} is no object")


def _row(number: int, context: Any, question: dict[str, Any]) -> Row | Unreadable:
    answers, impossible = question.get("answers"), question.get("is_impossible")
    if impossible is True and answers:
        return Unreadable(number, "it has answers, and is_impossible is true", str(context))
    if impossible is False and answers == []:
        return Unreadable(number, "it has no answers, and is_impossible is false", str(context))
    values = {"text": context, "pair": question.get("question"), "answers": [] if impossible is True else answers}
    return Row(number, values | ({"id": question["id"]} if "id" in question else {}))
