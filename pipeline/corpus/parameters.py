"""Where a docstring tells of parameters: their names, types, defaults and descriptions, found by rule.

Three styles are read: numpydoc (a title `Parameters`, underlined), Google (`Args:`) and Sphinx (`:param x:`). What the
rules cannot place for sure raises `UnclearError`: labels that are guessed would teach a network to guess.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

NAME = r"(?:\\?\*){0,2}[A-Za-z_]\w*"
NAMES = rf"{NAME}(?:\s*,\s*{NAME})*"

UNDERLINE = re.compile(r"\s*(?:-{3,}|={3,}|~{3,})\s*")
NUMPY_TITLE = re.compile(r"\s*(?:Other\s+|Keyword\s+)?(?:Parameters|Arguments)\s*")
NUMPY_HEAD = re.compile(rf"({NAMES})(?:\s*:(?:\s+(.*))?)?")

GOOGLE_TITLE = re.compile(r"\s*(?:(?:Other|Keyword)\s+)?(?:Args|Arguments|Parameters|Params):\s*", re.IGNORECASE)
GOOGLE_HEAD = re.compile(rf"({NAMES})\s*(?=[(:])")

SPHINX_FIELD = re.compile(r"(\s*):(param|parameter|arg|argument|key|keyword|kwarg|type)\s+([^:\n]+):(?:\s+|$)")
ANY_FIELD = re.compile(r"\s*:\w[^:\n]*:(?:\s|$)")

LONGEST_TYPE = 80  # characters; what is longer is a sentence
OPTIONAL = re.compile(r"(?:is\s+)?optional\b", re.IGNORECASE)
DEFAULT = re.compile(
    r"(?:the\s+)?\bdefaults?\b(?:\s+value)?\s*(?:(?:is|to|of)\b:?|[:=])?\s*", re.IGNORECASE
)  # in a type: `default 3`, `default=3`, `Default is 3`
SAID_DEFAULT = re.compile(
    r"\bdefaults?(?:\s+value)?\s*(?:(?:is|to)\b:?|[:=])\s*|\(default\s+"
    r"|\bdefaults?(?:\s+value)?\s+(?=[-+\d.'\"`]|(?:true|false|none)\b)",
    re.IGNORECASE,
)  # in a description
CLAUSE = re.compile(r"[\s,;(\[]*(?:(?:is\s+)?optional|(?:the\s+)?defaults?)\b", re.IGNORECASE)
BETWEEN_CLAUSES = re.compile(r"[\s,;.()\[\]]*")
LITERAL = re.compile(
    r"""``(?P<code>[^`\n]+)`` | `(?P<name>[^`\n]+)` | (?P<string>'[^'\n]*'|"[^"\n]*")
    | (?P<number>[-+]?(?:\d[\d_]*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?j?(?!\w)) | (?P<word>-?[A-Za-z_]\w*(?:\.\w+)*)""",
    re.VERBOSE,
)
PROSE_WORD = re.compile(r"(?!(?:true|false|none)\Z)[a-z]+", re.IGNORECASE)  # `if the default is passed`
AFTER_LITERAL = re.compile(r"[ \t]*(?:[,;.)\]](?!\w)|\n\s*\n|\s*\Z)")
OPENING, CLOSING = "([{", ")]}"


class UnclearError(Exception):
    """A docstring that tells of parameters in a way that the rules cannot place; the message says what, in a word."""


class Place(NamedTuple):
    """`text[start:end]`."""

    start: int
    end: int


@dataclass(frozen=True)
class Parameter:
    """One parameter of a docstring. `description` is its first paragraph, `body` all that is said of it."""

    name: Place
    type: Place | None = None
    default: Place | None = None
    description: Place | None = None
    body: Place | None = None


class Line(NamedTuple):
    start: int  # its place in the text
    text: str
    indent: int  # of blank lines 0

    @property
    def is_blank(self) -> bool:
        return not self.text.strip()


def find_parameters(text: str) -> list[Parameter]:
    """The parameters that a docstring tells of, in its order.

    Raises:
        UnclearError: something of them cannot be placed for sure.
    """
    lines = list(_lines(text))
    readers: list[Callable[[str, list[Line]], list[Parameter]]] = [_read_numpy, _read_google, _read_sphinx]
    found = [parameters for read in readers if (parameters := read(text, lines))]
    if len(found) > 1:
        raise UnclearError("styles")
    return [_with_said_default(text, parameter) for parameter in found[0]] if found else []


def _lines(text: str) -> Iterator[Line]:
    start = 0
    for line in text.split("\n"):
        yield Line(start, line, len(line) - len(line.lstrip()) if line.strip() else 0)
        start += len(line) + 1


def _read_numpy(text: str, lines: list[Line]) -> list[Parameter]:
    titles = [
        number
        for number in range(len(lines) - 1)
        if not lines[number].is_blank and UNDERLINE.fullmatch(lines[number + 1].text)
    ]
    found: list[Parameter] = []
    for number in titles:
        indent = lines[number].indent
        if NUMPY_TITLE.fullmatch(lines[number].text):
            end = next((later for later in titles if later > number and lines[later].indent <= indent), len(lines))
            found += _numpy_entries(text, lines[number + 2 : end], indent)
    return found


def _numpy_entries(text: str, lines: list[Line], indent: int) -> Iterator[Parameter]:
    for line, rest in _entries(lines, indent):
        head = NUMPY_HEAD.fullmatch(line.text.strip())
        if not head:
            raise UnclearError("entry")
        start = line.start + line.indent
        type_, default = None, None
        if head[2]:
            type_, default = read_type(text, Place(start + head.start(2), start + head.end(2)))
        elif not rest:
            raise UnclearError("entry")
        yield from _parameters(text, start, head[1], type_, default, _extent(rest))


def _read_google(text: str, lines: list[Line]) -> list[Parameter]:
    found: list[Parameter] = []
    for number, title in enumerate(lines):
        if not GOOGLE_TITLE.fullmatch(title.text):
            continue
        block = []
        for line in lines[number + 1 :]:
            if not line.is_blank and line.indent <= title.indent:
                break
            block.append(line)
        indents = [line.indent for line in block if not line.is_blank]
        if indents:
            found += _google_entries(text, block, indents[0])
    return found


def _google_entries(text: str, lines: list[Line], indent: int) -> Iterator[Parameter]:
    for line, rest in _entries(lines, indent):
        start = line.start + line.indent
        head = GOOGLE_HEAD.match(text, start, line.start + len(line.text))
        if not head:
            raise UnclearError("entry")
        end, type_, default = head.end(), None, None
        if text[end] == "(":
            close = _closing(text, end)
            if close is None:
                raise UnclearError("entry")
            type_, default = read_type(text, Place(end + 1, close - 1))
            end = close
        if text[end : end + 1] != ":" or text[end : end + 2].strip() not in (":", ""):
            raise UnclearError("entry")
        own = Line(end + 1, text[end + 1 : line.start + len(line.text)], 0)
        yield from _parameters(text, start, head[1], type_, default, _extent([own, *rest]))


def _read_sphinx(text: str, lines: list[Line]) -> list[Parameter]:
    found: list[Parameter] = []
    types: dict[str, tuple[Place | None, Place | None]] = {}
    for number, line in enumerate(lines):
        field = SPHINX_FIELD.match(line.text)
        if not field:
            continue
        own = Line(line.start + field.end(), line.text[field.end() :], 0)
        body = _extent([own, *_sphinx_rest(lines[number + 1 :], line.indent)])
        before, name = re.fullmatch(r"(.*?)(\S+)", field[3].strip()).groups()  # type: ignore[union-attr]
        if not re.fullmatch(NAME, name):
            raise UnclearError("entry")
        if field[2] == "type":
            if name in types or before:
                raise UnclearError("type")
            types[name] = read_type(text, body) if body else (None, None)
            continue
        start = line.start + field.start(3)
        type_ = read_type(text, Place(start, start + len(before.rstrip()))) if before.strip() else (None, None)
        found += _parameters(text, start + len(before), name, *type_, body)
    named = [_plain(text, parameter.name) for parameter in found]
    if set(types) - set(named) or any(
        parameter.type and name in types for name, parameter in zip(named, found, strict=True)
    ):
        raise UnclearError("type")
    return [
        replace(parameter, type=types[name][0], default=types[name][1]) if name in types else parameter
        for name, parameter in zip(named, found, strict=True)
    ]


def _sphinx_rest(lines: list[Line], indent: int) -> list[Line]:
    rest: list[Line] = []
    for line in lines:
        if not line.is_blank and line.indent <= indent:
            if not (rest and rest[-1].is_blank) and not ANY_FIELD.match(line.text):
                raise UnclearError("layout")  # it goes on without an indent, or something else begins
            break
        rest.append(line)
    return rest


def _entries(lines: list[Line], indent: int) -> Iterator[tuple[Line, list[Line]]]:
    """Each line at `indent` with the lines below it that are indented further."""
    head: Line | None = None
    rest: list[Line] = []
    for line in lines:
        if line.is_blank or line.indent > indent:
            if head is None and not line.is_blank:
                raise UnclearError("layout")
            rest.append(line)
            continue
        if line.indent < indent:
            raise UnclearError("layout")
        if head is not None:
            yield head, _without_blank_ends(rest)
        head, rest = line, []
    if head is not None:
        yield head, _without_blank_ends(rest)


def _without_blank_ends(lines: list[Line]) -> list[Line]:
    filled = [number for number, line in enumerate(lines) if not line.is_blank]
    return lines[filled[0] : filled[-1] + 1] if filled else []


def _extent(lines: list[Line]) -> Place | None:
    """From the first visible character of the lines to the last."""
    filled = [line for line in lines if not line.is_blank]
    if not filled:
        return None
    first, last = filled[0], filled[-1]
    return Place(first.start + len(first.text) - len(first.text.lstrip()), last.start + len(last.text.rstrip()))


def _parameters(
    text: str, start: int, names: str, type_: Place | None, default: Place | None, body: Place | None
) -> Iterator[Parameter]:
    """The parameters of one entry: they share all but the name."""
    description = None
    if body:
        first = re.search(r"\n[ \t]*\n", text[body.start : body.end])
        description = Place(body.start, body.start + first.start()) if first else body
    for match in re.finditer(NAME, names):
        bare = match[0].lstrip("\\*")
        end = start + match.end()
        yield Parameter(Place(end - len(bare), end), type_, default, description, body)


def _plain(text: str, place: Place) -> str:
    return text[place.start : place.end]


def read_type(text: str, place: Place) -> tuple[Place | None, Place | None]:
    """The type and the default in `array_like, optional (default=None)`; None where there is none.

    Raises:
        UnclearError: it is a sentence, goes on in the next line, or has something behind `optional` or the default.
    """
    spec = text[place.start : place.end]
    begin = next((match for match in CLAUSE.finditer(spec) if _depth(spec[: match.start()]) == 0), None)
    type_ = spec[: begin.start()] if begin else spec
    left = len(type_) - len(type_.lstrip())
    type_ = type_.strip()
    if _depth(type_) or len(type_) > LONGEST_TYPE or type_.endswith((".", ",", ":")):
        raise UnclearError("type")
    found = Place(place.start + left, place.start + left + len(type_)) if type_ else None
    default = _read_clauses(text, place.start + begin.start(), place.end) if begin else None
    return found, default


def _read_clauses(text: str, at: int, end: int) -> Place | None:
    default = None
    while True:
        at = min(end, _end(BETWEEN_CLAUSES, text, at, end))
        if at == end:
            return default
        if optional := OPTIONAL.match(text, at, end):
            at = optional.end()
        elif said := DEFAULT.match(text, at, end):
            found = read_literal(text, said.end(), end)
            if default or not found:
                raise UnclearError("default")
            default, at = found
        else:
            raise UnclearError("type")


def _end(pattern: re.Pattern[str], text: str, at: int, end: int) -> int:
    match = pattern.match(text, at, end)
    return match.end() if match else at


def _with_said_default(text: str, parameter: Parameter) -> Parameter:
    """The parameter with the default that its description names, where its type does not."""
    if parameter.default or not parameter.body:
        return parameter
    said = [
        read_literal(text, match.end(), parameter.body.end)
        for match in SAID_DEFAULT.finditer(text, parameter.body.start, parameter.body.end)
    ]
    if not said:
        return parameter
    if len(said) > 1 or not said[0] or PROSE_WORD.fullmatch(text, *said[0][0]):
        raise UnclearError("default")
    return replace(parameter, default=said[0][0])


def read_literal(text: str, at: int, end: int) -> tuple[Place, int] | None:
    """The value that begins at `at`, without the marks of code around it, and where they end.

    None: what stands there is no value by itself, as in `default is 3 times the width`.
    """
    if at < end and text[at] in OPENING:
        close = _closing(text, at)
        place, after = (Place(at, close), close) if close and close <= end else (None, at)
    else:
        match = LITERAL.match(text, at, end)
        if not match or not match.lastgroup:
            return None
        place, after = Place(*match.span(match.lastgroup)), match.end()
        if match.lastgroup == "word" and text.startswith(tuple(OPENING), after, end):  # `float("inf")`
            close = _closing(text, after)
            place, after = (Place(at, close), close) if close and close <= end else (None, at)
    return (place, after) if place and AFTER_LITERAL.match(text, after, end) else None


def _closing(text: str, at: int) -> int | None:
    """Behind the bracket that closes the one at `at`, in the same line; None: there is none."""
    depth = 0
    for position in range(at, len(text)):
        depth += (text[position] in OPENING) - (text[position] in CLOSING)
        if depth == 0:
            return position + 1
        if text[position] == "\n":
            return None
    return None


def _depth(text: str) -> int:
    return sum((char in OPENING) - (char in CLOSING) for char in text)
