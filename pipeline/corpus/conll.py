"""Files in CoNLL columns: a word and its tag on each line, an empty line between sentences.

Tags are BIO (also called IOB2: every span begins with B-), BIOES, or plain (NOUN, VERB: each word is a span by itself);
a file has one of these schemes throughout. Words are put together with spaces, and without them where both are of
a script that has none (kana, Han). See Tjong Kim Sang and De Meulder 2003 for the format.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.common.scripts import KANA_AND_HAN
from pipeline.common.spans import Span
from pipeline.corpus.readers import Row, TornFileError, Unreadable, decode_line, is_unicode, numbered_lines

CONLL_FORMATS = (".conll", ".bio", ".iob", ".txt")
DOCUMENT_START = "-DOCSTART-"
SPAN_TAG = re.compile(r"O|[BIES]-.+")
UNSPACED = re.compile(f"[{KANA_AND_HAN}]")

Scheme = Literal["BIO", "BIOES", "plain"]


class BrokenTagsError(Exception):
    """Tags that are no spans; the message says which and why."""


@dataclass
class Sentence:
    """One sentence as it stands in the file; `fault` says why it cannot be used."""

    line: int  # its first, from 1
    words: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    fault: str = ""


def read_sentences(path: Path, tag_column: int | None = None) -> Iterator[Row | Unreadable]:
    """Yield each sentence with `text` and `spans`, or why it cannot be read. The word is in the first column.

    Args:
        path: plain or compressed.
        tag_column: the column of the tag, from 1; None: the last.
    """
    sentences: list[Sentence] = []
    torn = None
    try:
        sentences += _sentences(path, tag_column)
    except TornFileError as error:
        torn = Unreadable(None, str(error), "")
    scheme = find_scheme(tag for sentence in sentences for tag in sentence.tags)
    for sentence in sentences:
        text, places = join_words(sentence.words)
        try:
            if sentence.fault:
                raise BrokenTagsError(sentence.fault)
            runs = spans_of_tags(sentence.tags, scheme)
        except BrokenTagsError as error:
            yield Unreadable(sentence.line, str(error), text)
            continue
        spans = [Span(places[first][0], places[last][1], label) for first, last, label in runs]
        yield Row(sentence.line, {"text": text, "spans": [span._asdict() for span in spans]})
    if torn is not None:
        yield torn


def _sentences(path: Path, tag_column: int | None) -> Iterator[Sentence]:
    sentence: Sentence | None = None
    for number, line in numbered_lines(path):
        content = line.decode("utf-8", "replace").rstrip("\r\n")
        if not content.strip():
            if sentence is not None:
                yield sentence
            sentence = None
            continue
        fields = content.split("\t") if "\t" in content else content.split()
        if fields[0] == DOCUMENT_START or _is_comment(content, fields):
            continue
        sentence = sentence or Sentence(number)
        _add_line(sentence, number, line, fields, tag_column)
    if sentence is not None:
        yield sentence


def _is_comment(content: str, fields: list[str]) -> bool:
    """`# sent_id = 3` in front of a sentence, which is no word `#` with a tag."""
    return content.startswith("# ") and "\t" not in content and not SPAN_TAG.fullmatch(fields[-1])


def _add_line(sentence: Sentence, number: int, line: bytes, fields: list[str], tag_column: int | None) -> None:
    place = len(fields) if tag_column is None else tag_column
    word, tag = fields[0].strip(), fields[place - 1].strip() if 1 < place <= len(fields) else ""
    if not word or not tag:
        have = f"{len(fields)} column{'s' if len(fields) > 1 else ''}"
        sentence.fault = sentence.fault or f"line {number} has {have}: no word and tag in them"
    elif "\ufffd" in word and not is_unicode(decode_line(line)):
        sentence.fault = sentence.fault or f"line {number} is not UTF-8"
    sentence.words.append(word)
    sentence.tags.append(tag)


def find_scheme(tags: Iterator[str]) -> Scheme:
    """BIOES where a tag begins with E- or S-, plain where most tags have no such beginning, else BIO."""
    known = sorted(set(tags) - {""})
    inside = [tag for tag in known if SPAN_TAG.fullmatch(tag)]
    if 2 * len(inside) < len(known):
        return "plain"
    return "BIOES" if any(tag[0] in "ES" for tag in inside) else "BIO"


def spans_of_tags(tags: list[str], scheme: Scheme) -> list[tuple[int, int, str]]:
    """The spans as (first word, last word, label).

    Raises:
        BrokenTagsError: a tag that the scheme does not have, or does not have at this place.
    """
    if scheme == "plain":
        return [(place, place, tag) for place, tag in enumerate(tags)]
    runs: list[tuple[int, int, str]] = []
    first, label = 0, ""  # label: of the open span
    for place, tag in enumerate([*tags, "O"]):
        if not SPAN_TAG.fullmatch(tag):
            raise BrokenTagsError(f"{tag!r} at word {place + 1} is no tag of {scheme}")
        kind, _, named = tag.partition("-")
        before = tags[place - 1] if place else "the beginning"
        if kind in ("I", "E") and label != named:
            raise BrokenTagsError(f"{tag} at word {place + 1} follows {before}: no span that it could go on with")
        if kind not in ("I", "E") and label:
            if scheme == "BIOES":
                what = f"{tag} at word {place + 1}" if place < len(tags) else "the end"
                raise BrokenTagsError(f"{what} follows {before}: that span has no end (E-{label})")
            runs.append((first, place - 1, label))
            label = ""
        if kind == "B":
            first, label = place, named
        elif kind == "S":
            runs.append((place, place, named))
        elif kind == "E":
            runs.append((first, place, named))
            label = ""
    return runs


def join_words(words: list[str]) -> tuple[str, list[tuple[int, int]]]:
    """The text, and where each word stands in it as (start, end)."""
    text, places = "", []
    for word in words:
        if text and word and not (UNSPACED.match(text[-1]) and UNSPACED.match(word[0])):
            text += " "
        places.append((len(text), len(text) + len(word)))
        text += word
    return text, places
