"""The tasks that documentation gives beside `library`: rows whose labels are found by rule, or left out and counted.

- `parameters`: the names, types and defaults of parameters in a docstring, as labelled spans.
- `describe`: a question for each parameter of a docstring; the answer is the first paragraph of its description.
- `summarise`: the source of a function, and the first line of its docstring.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from pipeline.common.answers import Answer, answers_to_json
from pipeline.common.spans import Span, spans_to_json
from pipeline.corpus.forms.form import PAIR
from pipeline.corpus.parameters import Parameter, Place, UnclearError, find_parameters
from pipeline.corpus.splitting import draw

PARAMETERS, DESCRIBE, SUMMARISE = "parameters", "describe", "summarise"
COLUMNS = {
    PARAMETERS: ["id", "text", "spans", "split", "group"],
    DESCRIBE: ["id", "text", PAIR, "answers", "split", "group"],
    SUMMARISE: ["id", "text", "target", "split", "group"],
}
LONGEST_TEXT = 3000  # characters; of the docstrings with parameters, one in twelve is longer
LONGEST_ANSWER = 400
QUESTION = "What is the parameter {name}?"


class Passage(NamedTuple):
    """A docstring or the source of a function, with its place."""

    id: str
    text: str
    split: str
    group: str
    summary: str = ""  # of a function


class Made(NamedTuple):
    """The rows of a task by its `COLUMNS`, and how many were left out, by the reason in a word."""

    rows: list[tuple[str, ...]]
    left_out: Counter[str]


def make_parameters(docstrings: Iterable[Passage]) -> Made:
    """One row for each docstring with parameters."""
    made = Made([], Counter())
    for passage, parameters in _with_parameters(docstrings, made.left_out):
        spans = {span for parameter in parameters for span in _spans_of(parameter)}
        made.rows.append((passage.id, passage.text, spans_to_json(spans), passage.split, passage.group))
    return made


def make_describe(docstrings: Iterable[Passage]) -> Made:
    """One row for each parameter with a description whose name stands for it alone in its docstring."""
    made = Made([], Counter())
    for passage, parameters in _with_parameters(docstrings, made.left_out):
        names = [_plain(passage, parameter.name) for parameter in parameters]
        for name, parameter in zip(names, parameters, strict=True):
            place = parameter.description or Place(0, 0)
            answer = Answer(place.start, _plain(passage, place))
            if reason := _unfit(answer.text, names.count(name)):
                made.left_out[reason] += 1
                continue
            answers, question = answers_to_json([answer]), QUESTION.format(name=name)
            row = f"{passage.id}:{name}", passage.text, question, answers, passage.split, passage.group
            made.rows.append(row)
    return made


def make_summarise(functions: Iterable[Passage]) -> Made:
    """One row for each function."""
    return Made([(row.id, row.text, row.summary, row.split, row.group) for row in functions], Counter())


MAKERS: dict[str, Callable[[Iterable[Passage]], Made]] = {
    PARAMETERS: make_parameters,
    DESCRIBE: make_describe,
    SUMMARISE: make_summarise,
}


def _with_parameters(
    docstrings: Iterable[Passage], left_out: Counter[str]
) -> Iterable[tuple[Passage, list[Parameter]]]:
    for passage in docstrings:
        try:
            parameters = find_parameters(passage.text)
        except UnclearError as error:
            left_out[f"unclear_{error}"] += 1
            continue
        if parameters and len(passage.text) > LONGEST_TEXT:
            left_out["too_long"] += 1
        elif parameters:
            yield passage, parameters


def _spans_of(parameter: Parameter) -> list[Span]:
    places = {"name": parameter.name, "type": parameter.type, "default": parameter.default}
    return [Span(place.start, place.end, label) for label, place in places.items() if place]


def _unfit(answer: str, named: int) -> str | None:
    if named > 1:
        return "name_twice"
    if not answer or answer.startswith(".."):  # a directive, such as `.. versionadded::`
        return "no_description"
    return "long_description" if len(answer) > LONGEST_ANSWER else None


def _plain(passage: Passage, place: Place) -> str:
    return passage.text[place.start : place.end]


def draw_rows(rows: list[tuple[str, ...]], most: int, seed: int) -> list[tuple[str, ...]]:
    """At most so many rows, drawn by the seed and their ids, in their order: a larger draw holds a smaller one."""
    if len(rows) <= most:
        return rows
    drawn = set(sorted((row[0] for row in rows), key=lambda name: draw(seed, name))[:most])
    return [row for row in rows if row[0] in drawn]
