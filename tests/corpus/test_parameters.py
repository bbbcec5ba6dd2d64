"""Parameters of docstrings: placed for sure in three styles, or the docstring is refused."""

from inspect import cleandoc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpus.parameters import Place, UnclearError, find_parameters, read_literal

Found = tuple[str, str | None, str | None, str | None]  # name, type, default, description

NUMPY = """
Fit a line.

Parameters
----------
x, y : array_like, shape (n,)
    Where the points
    are.

    A second paragraph.
method : {'least squares', "robust, slow"}, optional (default='least squares')
    How.
steps: int, default 10
tolerance : float or None, default: 1e-3, optional
    When to stop. See `fit`.
bounds : tuple, default=(0, np.inf)
    The limits.
*args, **kwargs
    Passed on.
flag : bool
    Whether to print. Default is ``False``.

Other Parameters
----------------
seed : optional
    Of every draw.

Returns
-------
line : Line
    Not a parameter, default 3.

Notes
-----
x : also not one
"""

GOOGLE = """
    Fit a line.

    Args:
        x (Tensor): where the points are,
            in two lines. Default: ``None``
        size (Union[int, Tuple[int, int]], optional): how large
        plain: no type, and a colon: here
        *rest: all others (default: 'none')
        later:
            Described below its name.

    Returns:
        Tensor: the line
"""

SPHINX = """
Fit a line.

:param x: where the points are,
  over two lines.

  More of it.
:param int steps: how many; defaults to 10.
:keyword name: what it is called
:type name: str, optional
:return: the line
:rtype: Line
"""


def found_in(docstring: str) -> list[Found]:
    text = cleandoc(docstring)

    def plain(place: Place | None) -> str | None:
        return text[place.start : place.end] if place else None

    return [
        (plain(found.name) or "", plain(found.type), plain(found.default), plain(found.description))
        for found in find_parameters(text)
    ]


def test_numpydoc() -> None:
    points = "Where the points\n    are."
    assert found_in(NUMPY) == [
        ("x", "array_like, shape (n,)", None, points),
        ("y", "array_like, shape (n,)", None, points),
        ("method", "{'least squares', \"robust, slow\"}", "'least squares'", "How."),
        ("steps", "int", "10", None),
        ("tolerance", "float or None", "1e-3", "When to stop. See `fit`."),
        ("bounds", "tuple", "(0, np.inf)", "The limits."),
        ("args", None, None, "Passed on."),
        ("kwargs", None, None, "Passed on."),
        ("flag", "bool", "False", "Whether to print. Default is ``False``."),
        ("seed", None, None, "Of every draw."),
    ]


def test_google() -> None:
    assert found_in(GOOGLE) == [
        ("x", "Tensor", "None", "where the points are,\n        in two lines. Default: ``None``"),
        ("size", "Union[int, Tuple[int, int]]", None, "how large"),
        ("plain", None, None, "no type, and a colon: here"),
        ("rest", None, "'none'", "all others (default: 'none')"),
        ("later", None, None, "Described below its name."),
    ]


def test_sphinx() -> None:
    assert found_in(SPHINX) == [
        ("x", None, None, "where the points are,\n  over two lines."),
        ("steps", "int", "10", "how many; defaults to 10."),
        ("name", "str", None, "what it is called"),
    ]


def test_a_docstring_without_parameters_has_none() -> None:
    assert found_in("Return x.\n\nReturns\n-------\nx : int\n    It.\n\nNote: Args are none.") == []


@pytest.mark.parametrize(
    ("said", "default"),
    [
        ("Default is ``2*pi``.", "2*pi"),
        ("How long (default: 3).", "3"),
        ("How long (default 3)", "3"),
        ("How long, defaults to 'a b'", "'a b'"),
        ("Default value None.", "None"),
        ("The default value is np.inf, always.", "np.inf"),
        ("As the default dtype of the array.", None),
        ("By default all axes.", None),
    ],
)
def test_a_default_may_be_said_in_the_description(said: str, default: str | None) -> None:
    assert found_in(f"Do.\n\nParameters\n----------\nx : int\n    {said}")[0][2] == default
    assert found_in(f"Do.\n\nArgs:\n    x (int): {said}")[0][2] == default


@pytest.mark.parametrize(
    ("entries", "word"),
    [
        ("x : int\n    One.\n\nSome prose that is no parameter.", "entry"),
        ("x1, ..., xn : int\n    Some.", "entry"),
        ("None", "entry"),
        ("    x : int\n    One.", "layout"),
        ("x : int, optional, above 0\n    One.", "type"),
        ("x : {int, float,\n    str}\n    One.", "type"),
        ("x : An integer that says how often it is done.\n    One.", "type"),
        ("x : int, default 3 times y\n    One.", "default"),
        ("x : int or None (default)\n    One.", "default"),
        ("x : int\n    One. The default is the width.", "default"),
        ("x : bool\n    If the default value is passed, nothing happens. Default is passed.", "default"),
        ("x : int\n    Default: 1. On Windows the default is 2.", "default"),
    ],
)
def test_what_cannot_be_placed_for_sure_is_refused(entries: str, word: str) -> None:
    with pytest.raises(UnclearError, match=f"^{word}$"):
        found_in(f"Do.\n\nParameters\n----------\n{entries}")


@pytest.mark.parametrize(
    ("docstring", "word"),
    [
        ("Do.\n\n:param x: one\n\nArgs:\n    y: two", "styles"),
        ("Do.\n\n:param x: one\nand no indent", "layout"),
        ("Do.\n\n:param x: one\n:type y: int", "type"),
        ("Do.\n\nArgs:\n    x (int: one", "entry"),
    ],
)
def test_other_styles_are_refused_as_well(docstring: str, word: str) -> None:
    with pytest.raises(UnclearError, match=f"^{word}$"):
        found_in(docstring)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("None.", "None"), ("``a b``", "a b"), ("'x, y',", "'x, y'"), ("-1)", "-1"), ("1e-08", "1e-08"),
        ("np.nan, optional", "np.nan"), ('float("inf").', 'float("inf")'), ("{}", "{}"), ("[1, (2)];", "[1, (2)]"),
        ("3 times", None), ("'open", None), ("(1, 2", None), ("1.5x", None), ("", None), ("f(x) + 1", None),
    ],
)  # fmt: skip
def test_a_literal_stands_by_itself(text: str, value: str | None) -> None:
    found = read_literal(text, 0, len(text))
    assert (text[found[0].start : found[0].end] if found else None) == value


LINES = [
    *NUMPY.splitlines(),
    *GOOGLE.splitlines(),
    *SPHINX.splitlines(),
    "x :",
    ": ",
    "Args:",
    ":param x",
    ":type x:",
    "-----",
]


@settings(deadline=None)
@given(st.lists(st.sampled_from(LINES) | st.text("x ,:()*`'=\t\\" + "default", max_size=30), max_size=12))
def test_whatever_the_lines_are_places_hold_visible_characters(lines: list[str]) -> None:
    text = "\n".join(lines)
    try:
        parameters = find_parameters(text)
    except UnclearError:
        return
    for parameter in parameters:
        places = [parameter.name, parameter.type, parameter.default, parameter.description, parameter.body]
        for start, end in (place for place in places if place):
            assert 0 <= start < end <= len(text)
            assert text[start:end] == text[start:end].strip()
