"""Parallel files: a text on each line of one, its target on the same line of the other."""

import re
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from pipeline.corpus.readers import Row, TornFileError, Unreadable, decode_line, is_unicode, numbered_lines

WILDCARD = re.compile(r"\*\*/|\*\*|\*")
MATCHES = {"**/": "((?:.*/)?)", "**": "(.*)", "*": "([^/]*)"}


class UnpairedFilesError(Exception):
    """Two files that do not belong together, or one without the other; the message says why."""


def partner(name: str, pattern: str, target_pattern: str) -> str:
    """The file of the targets of the file `name`, which `pattern` found.

    Each `*` (or `**`) of the target pattern stands for what that of the pattern found: `*.en` and `*.de` make a pair of
    `train.en` and `train.de`.

    Raises:
        UnpairedFilesError: the two patterns have other wildcards, or the target's leads out of the folder.
    """
    if Path(target_pattern).is_absolute() or ".." in Path(target_pattern).parts:
        raise UnpairedFilesError(f"{target_pattern!r} must lie below source.path, the folder that DVC watches")
    wildcards = WILDCARD.findall(pattern)
    if WILDCARD.findall(target_pattern) != wildcards:
        raise UnpairedFilesError(f"{target_pattern!r} needs the wildcards of the path {pattern!r}, in their order")
    parts = zip_longest(WILDCARD.split(pattern), wildcards, fillvalue="")
    found = re.fullmatch("".join(re.escape(part) + MATCHES.get(wildcard, "") for part, wildcard in parts), name)
    if found is None:
        raise UnpairedFilesError(f"the path {pattern!r} goes with targets only where * and ** are its wildcards")
    values = iter(found.groups())
    return WILDCARD.sub(lambda _: next(values), target_pattern)


def read_pairs(path: Path, target_path: Path) -> Iterator[Row | Unreadable]:
    """Yield `text` and `target` of each line, plain or compressed; where one of them is torn, that and nothing more.

    Raises:
        UnpairedFilesError: there is no such second file, or one has more lines than the other.
    """
    if not target_path.is_file():
        raise UnpairedFilesError(f"there is no file {target_path}, which would be the targets of {path}")
    try:
        sides = [[decode_line(line).rstrip("\r\n") for _, line in numbered_lines(file)] for file in (path, target_path)]
    except TornFileError as error:
        yield Unreadable(None, f"with {target_path.name}: {error}", "")
        return
    if len(sides[0]) != len(sides[1]):
        raise UnpairedFilesError(
            f"{path} has {len(sides[0]):,} lines and {target_path} has {len(sides[1]):,}: they are no pairs"
        )
    for number, (text, target) in enumerate(zip(*sides, strict=True), start=1):
        wrong = [file.name for file, line in ((path, text), (target_path, target)) if not is_unicode(line)]
        if wrong:
            content = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            yield Unreadable(number, f"not UTF-8 in {' and '.join(wrong)}", content)
        else:
            yield Row(number, {"text": text, "target": target})
