"""Functions of Python files: their source without docstrings, and the line that says what each does.

This module imports nothing heavy: the processes that read files import it.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from textwrap import dedent
from typing import NamedTuple

LONGEST_SOURCE = 1500  # characters; longer functions do more than a line can say
LONGEST_SUMMARY = 200
FEWEST_WORDS = 3
SUMMARY = re.compile(r"[A-Za-z`*\"'].*")
SIGNATURE = re.compile(r"[\w.]+\(.*\)")
QUOTED = re.compile(r"[a-zA-Z]{0,2}(['\"])")

AnyFunction = ast.FunctionDef | ast.AsyncFunctionDef


class Function(NamedTuple):
    line: int  # of its `def`; no two functions of a file share it
    source: str  # without indentation, decorators and docstrings
    summary: str


def find_functions(nodes: Iterable[ast.AST], source: str) -> Iterator[Function | str]:
    """Each function with a docstring among `nodes` of a file's tree, or why it is left out, in a word.

    Args:
        nodes: parsed from `source`, in the order to keep.
        source: of the whole file.
    """
    lines = source.split("\n")
    for node in nodes:
        if isinstance(node, AnyFunction) and (docstring := ast.get_docstring(node)):
            yield _read_function(node, docstring, lines)


def _read_function(node: AnyFunction, docstring: str, lines: list[str]) -> Function | str:
    summary = summary_of(docstring)
    if summary is None:
        return "no_summary_line"
    if all(_does_nothing(statement) for statement in node.body[1:]):
        return "no_code"
    dropped: set[int] = set()
    for inner in ast.walk(node):
        if isinstance(inner, AnyFunction | ast.ClassDef) and ast.get_docstring(inner, clean=False) is not None:
            place = inner.body[0]
            if not _stands_alone(place, lines):
                return "no_line_of_its_own"
            dropped.update(range(place.lineno, (place.end_lineno or place.lineno) + 1))
    kept = [number for number in range(node.lineno, (node.end_lineno or node.lineno) + 1) if number not in dropped]
    text = dedent("\n".join(lines[number - 1] for number in kept)).rstrip()
    return Function(node.lineno, text, summary) if len(text) <= LONGEST_SOURCE else "too_long"


def summary_of(docstring: str) -> str | None:
    """The first line of a docstring, if it is a sentence by itself: no signature, and nothing goes on below it."""
    first, *rest = docstring.split("\n")
    first = first.strip()
    if (rest and rest[0].strip()) or not SUMMARY.fullmatch(first) or SIGNATURE.match(first):
        return None
    return first if len(first) <= LONGEST_SUMMARY and len(first.split()) >= FEWEST_WORDS else None


def _does_nothing(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Pass | ast.Raise) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    )


def _stands_alone(docstring: ast.stmt, lines: list[str]) -> bool:
    """Whether nothing else is in the lines of a docstring."""
    first, last = lines[docstring.lineno - 1], lines[(docstring.end_lineno or docstring.lineno) - 1]
    return bool(QUOTED.match(first.strip())) and last.rstrip().endswith(("'", '"'))
