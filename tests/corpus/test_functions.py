"""Functions of Python files: their source without docstrings, and the line that says what each does."""

import ast

import pytest

from pipeline.corpus.docstrings import find_documented
from pipeline.corpus.functions import Function, find_functions, summary_of

SOURCE = '''"""A module about functions."""

class Thing:
    @property
    def size(self):
        """Return the size of it.

        At some length.
        """
        # a comment stays
        def inner(x):
            r\'\'\'Double the number given.\'\'\'
            return 2 * x
        return inner(self.n)

async def wait(seconds):
    "Wait for so many seconds."
    await sleep(seconds)

def empty():
    """Do nothing at all here."""
    raise NotImplementedError

def short(): """Return the number one."""; return 1

def undocumented():
    return 1

def later():
    """This sentence goes on
    in the next line."""
    return 1
'''


def read(source: str) -> list[Function | str]:
    return list(find_functions(find_documented(ast.parse(source)), source))


def test_functions_come_in_reading_order_without_docstrings() -> None:
    size, inner, wait, *left_out = read(SOURCE)
    assert size == Function(
        5,
        "def size(self):\n    # a comment stays\n    def inner(x):\n        return 2 * x\n    return inner(self.n)",
        "Return the size of it.",
    )
    assert inner == Function(11, "def inner(x):\n    return 2 * x", "Double the number given.")
    assert wait == Function(16, "async def wait(seconds):\n    await sleep(seconds)", "Wait for so many seconds.")
    assert left_out == ["no_code", "no_line_of_its_own", "no_summary_line"]


def test_long_functions_are_left_out() -> None:
    lines = "    x = 1\n" * 200
    assert read(f'def f():\n    """Count to one, often."""\n{lines}') == ["too_long"]


@pytest.mark.parametrize(
    ("docstring", "summary"),
    [
        ("Return the size.\n\nMore.", "Return the size."),
        ("  `x` is the size of it ", "`x` is the size of it"),
        ("Return it.", None),
        ("f(x, y) -> the sum of both", None),
        (">>> f(1) # an example", None),
        (":param x: the only line", None),
        ("One line that goes on\nhere.", None),
        ("word " * 50, None),
    ],
)
def test_a_summary_is_a_sentence_by_itself(docstring: str, summary: str | None) -> None:
    assert summary_of(docstring) == summary
