"""Kind `files`: the user's own text and labels, in any language."""

import glob
import json
from collections import Counter
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import Any

from pipeline.common.errors import HallmarkError, Problems, allowed
from pipeline.common.params import Source, Task
from pipeline.common.spans import Span, spans_to_json
from pipeline.corpus.conll import CONLL_FORMATS, read_sentences
from pipeline.corpus.readers import (
    COMPRESSIONS,
    DOCUMENT_FORMATS,
    TABLE_FORMATS,
    MissingColumnsError,
    Row,
    Unreadable,
    file_format,
    is_unicode,
    read_document,
    read_rows,
)
from pipeline.corpus.rows import (
    DOCUMENT_COLUMNS,
    DOCUMENTS,
    REJECTED_CHARACTERS,
    REJECTED_COLUMNS,
    SPAN_COLUMNS,
    TASK_COLUMNS,
    Corpus,
    Document,
    Labelled,
    Rejected,
    frame,
    task_table,
)
from pipeline.corpus.splitting import (
    DOCUMENT_SPLITS,
    TASK_SPLITS,
    TEST,
    TRAIN,
    VALIDATION,
    draw_document_splits,
    draw_split,
)

TASK_SHARES = {TEST: 0.2, VALIDATION: 0.1}
SPLIT_WORDS = {
    "train": TRAIN,
    "dev": VALIDATION,
    "val": VALIDATION,
    "test": TEST,
}  # that names of CoNLL files begin with
EXAMPLES = 5  # named in a message


@dataclass(frozen=True)
class Wanted:
    """What to read for one table, and from where. `key` is the setting that names the files.

    `patterns` are globs by the names of their sources; if `each` of them was named on purpose, each has to find a file.
    """

    table: str
    key: str
    patterns: dict[str, str]
    each: bool
    formats: tuple[str, ...]
    splits: tuple[str, ...]
    text: str
    label: str | None = None
    id: str | None = None
    split: str | None = None
    spans: bool = False  # the label is a list of spans
    tag_column: int | None = None

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(name for name in (self.text, self.label, self.id, self.split) if name))


@dataclass(frozen=True)
class Found:
    """One row as the files have it; `split` is None where it is to be drawn."""

    id: str
    text: str
    label: str  # or the spans, as JSON
    split: str | None
    file: str
    source: str


def read_files(source: Source, tasks: dict[str, Task], seed: int) -> Corpus:
    """Read documents and labelled rows below `source.path`.

    A .txt or .md file is one document, a row of a table is one document or labelled text. Splits are as given, or drawn
    by the text's hash: copies of a text fall on the same side. A single document is cut in two, so that there is
    something to validate on. A document that is also a held-out text of a task is left out: nothing held out is
    pretrained on.

    Raises:
        HallmarkError: every missing file, column, wrong split name and one-class task at once.
    """
    root = Path(source.path)
    if not root.is_dir():
        raise HallmarkError(
            f"there is no folder {source.path!r}",
            where="params.yaml: source.path",
            fix="make the folder and put your text there, or name another",
        )
    problems = Problems("params.yaml")
    rejected: list[Rejected] = []
    found = _read_table(root, _wanted_documents(source), problems, rejected)
    labelled = {}
    for name, task in tasks.items():
        rows = _read_table(root, _wanted_labels(name, task), problems, rejected)
        labelled[name] = _split_labelled(rows, seed)
        _check_labels(name, task, rows, problems)
    problems.raise_if_any(fix="mend these keys in params.yaml or the files that they name")

    held_out = {row.text for rows in labelled.values() for row in rows if row.split != TRAIN}
    kept = [row for row in found if row.text not in held_out]
    return Corpus(
        documents=frame(_split_documents(kept, source, seed), DOCUMENT_COLUMNS),
        tasks={name: frame(rows, task_columns(tasks[name])) for name, rows in labelled.items()},
        rejected=frame(rejected, REJECTED_COLUMNS),
        facts={"documents_held_out_by_tasks": len(found) - len(kept)},
    )


def task_columns(task: Task) -> list[str]:
    return SPAN_COLUMNS if task.labels_spans else TASK_COLUMNS


def _wanted_documents(source: Source) -> Wanted:
    return Wanted(
        table=DOCUMENTS,
        key="source.documents",
        patterns=source.globs,
        each=isinstance(source.documents, dict),
        formats=DOCUMENT_FORMATS + TABLE_FORMATS,
        splits=DOCUMENT_SPLITS,
        text=source.text_column,
        id=source.id_column,
        split=source.split_column,
    )


def _wanted_labels(name: str, task: Task) -> Wanted:
    return Wanted(
        table=task_table(name),
        key=f"tasks.{name}.path",
        patterns={name: task.path or ""},
        each=True,
        formats=(*TABLE_FORMATS, *CONLL_FORMATS) if task.labels_spans else TABLE_FORMATS,
        splits=TASK_SPLITS,
        text=task.text_column,
        label=task.label_column or ("spans" if task.labels_spans else "label"),
        id=task.id_column,
        split=task.split_column,
        spans=task.labels_spans,
        tag_column=task.tag_column,
    )


def find_files(root: Path, wanted: Wanted, problems: Problems) -> dict[Path, str]:
    """The files below `root` that the patterns name, sorted, and the source of each; hidden ones are never read.

    A file that several patterns name is of the first one's source.
    """
    files: dict[Path, str] = {}
    empty = []
    for source, pattern in wanted.patterns.items():
        if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            problems.add(f"{wanted.key}: {pattern!r} must lie below source.path, the folder that DVC watches")
            return {}
        names = glob.glob(pattern, root_dir=root, recursive=True)  # noqa: PTH207 (leaves out hidden files; Path.glob does not)
        found = {root / name for name in names if (root / name).is_file()}
        if not found:
            empty.append(pattern)
        elif wanted.each and found <= files.keys():
            problems.add(f"{wanted.key}: all that {pattern!r} finds is found before; name {source!r} first")
        files |= dict.fromkeys(found - files.keys(), source)
    if empty and (wanted.each or not files):
        there = Counter(path.suffix for path in root.rglob("[!.]*") if path.is_file())
        listing = ", ".join(f"{count} {suffix or 'without suffix'}" for suffix, count in sorted(there.items()))
        patterns = ", ".join(map(repr, empty))
        problems.add(f"{wanted.key}: no file in {root} matches {patterns}; files there: {listing or 'none'}")
    unknown = sorted(path for path in files if file_format(path) not in wanted.formats)
    for path in unknown[:EXAMPLES]:
        problems.add(f"{wanted.key}: {path}: unknown format; {allowed((*wanted.formats, *COMPRESSIONS))}")
    if len(unknown) > EXAMPLES:
        problems.add(f"{wanted.key}: {len(unknown) - EXAMPLES} more files of unknown formats")
    return {path: source for path, source in sorted(files.items()) if path not in unknown}


def _read_table(root: Path, wanted: Wanted, problems: Problems, rejected: list[Rejected]) -> list[Found]:
    """Rows of every file that `wanted` names; adds what is wrong as a whole to `problems`, bad rows to `rejected`."""
    known, set_aside = len(problems.found), len(rejected)
    found: list[Found] = []
    for path, source in find_files(root, wanted, problems).items():
        name = path.relative_to(root).as_posix()
        try:
            rows = _read_file(path, name, source, wanted)
            rejected += [row for row in rows if isinstance(row, Rejected)]
            found += [row for row in rows if isinstance(row, Found)]
        except MissingColumnsError as error:
            problems.add(f"{wanted.key}: {path}: {error}")
    _check_splits(found, wanted, problems)
    if not found and len(problems.found) == known:
        problems.add(f"{wanted.key}: not one text was read{_first_reasons(rejected[set_aside:])}")
    return found


def _first_reasons(rejected: list[Rejected]) -> str:
    if not rejected:
        return ": the files are empty"
    reasons = "; ".join(f"{row.id}: {row.reason}" for row in rejected[:EXAMPLES])
    hint = " (save as UTF-8: `iconv -f OLD -t UTF-8`)" if any("UTF-8" in row.reason for row in rejected) else ""
    return f", {len(rejected)} set aside: {reasons}{hint}"


def _read_file(path: Path, name: str, source: str, wanted: Wanted) -> list[Found | Rejected]:
    if wanted.spans and file_format(path) in CONLL_FORMATS:
        return [
            _reject(row, name, wanted) if isinstance(row, Unreadable) else _find_sentence(row, name, source, wanted)
            for row in read_sentences(path, wanted.tag_column)
        ]
    if file_format(path) in DOCUMENT_FORMATS:
        text = read_document(path)
        if isinstance(text, Unreadable):
            return [_reject(text, name, wanted)]
        return [Found(name, text, "", None, name, source)]
    return [
        _reject(row, name, wanted) if isinstance(row, Unreadable) else _find(row, name, source, wanted)
        for row in read_rows(path, wanted.columns)
    ]


def _find_sentence(row: Row, name: str, source: str, wanted: Wanted) -> Found | Rejected:
    spans = [Span(**span) for span in row.values["spans"]]
    return Found(f"{name}:{row.number}", row.values["text"], spans_to_json(spans), _named_split(name), name, source)


def _named_split(name: str) -> str | None:
    """The split that a file is named after: `dev.conll`, `wnut17/train.conll.gz`; None where it is to be drawn."""
    stem = name.rpartition("/")[2].lower()
    return next((split for word, split in SPLIT_WORDS.items() if stem.startswith(word)), None)


def _reject(row: Unreadable, name: str, wanted: Wanted) -> Rejected:
    place = name if row.number is None else f"{name}:{row.number}"
    text = row.text[:REJECTED_CHARACTERS].encode("utf-8", "replace").decode("utf-8")
    return Rejected(wanted.table, place, row.reason, text)


def _find(row: Row, name: str, source: str, wanted: Wanted) -> Found | Rejected:
    """Check the values of one row: texts are strings, labels and ids strings or whole numbers, all storable."""
    place = f"{name}:{row.number}"
    text = row.values[wanted.text]
    label = (_as_spans if wanted.spans else _as_name)(row.values[wanted.label]) if wanted.label else ""
    identity = _as_name(row.values[wanted.id]) if wanted.id else place
    split = _as_name(row.values[wanted.split]) or "" if wanted.split else None
    faults = []
    if not isinstance(text, str):
        faults.append(f"{wanted.text!r} is {_kind(text)}, not text")
    if wanted.label and not label:
        faults.append(f"{wanted.label!r} is {_kind(row.values[wanted.label])}, not {_label_form(wanted)}")
    if not identity:
        faults.append(f"{wanted.id!r} is {_kind(row.values[wanted.id or ''])}, not an id")
    if not is_unicode("".join(value for value in (text, label, identity) if isinstance(value, str))):
        faults.append("half a character (a lone surrogate)")
    if faults:
        return _reject(Unreadable(row.number, "; ".join(faults), str(text)), name, wanted)
    return Found(identity or place, text, label or "", split, name, source)


def _as_name(value: Any) -> str | None:
    """A label, id or split as a string, or None where it is none: classes are often numbered."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # tables with a gap turn whole numbers into floats
    if isinstance(value, str | int):
        return str(value).strip() or None
    return None


def _as_spans(value: Any) -> str | None:
    """A list of {"start": int, "end": int, "label": str}, also as JSON text, in the form that tables hold."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
        spans = [Span(index(span["start"]), index(span["end"]), _as_name(span["label"]) or "") for span in found]
    except (TypeError, KeyError, ValueError, RecursionError):
        return None
    return spans_to_json(spans) if all(span.label for span in spans) else None


def _label_form(wanted: Wanted) -> str:
    return 'a list of {"start", "end", "label"}' if wanted.spans else "a label"


def _kind(value: Any) -> str:
    if value is None:
        return "missing"
    return "empty" if value == "" else f"{value!r} ({type(value).__name__})"


def _check_splits(found: list[Found], wanted: Wanted, problems: Problems) -> None:
    wrong = [row for row in found if row.split is not None and row.split not in wanted.splits]
    for split, count in sorted(Counter(row.split for row in wrong).items(), key=str):
        first = next(row.id for row in wrong if row.split == split)
        problems.add(
            f"{wanted.table}: column {wanted.split!r} says {split!r} in {count} rows, first {first}; "
            f"{allowed(wanted.splits)}"
        )


def _check_labels(name: str, task: Task, rows: list[Found], problems: Problems) -> None:
    labels = {row.label for row in rows}
    if task.labels_spans:
        if labels == {spans_to_json([])}:
            problems.add(f"tasks.{name}: not one of the {len(rows)} texts has a span")
    elif len(labels) == 1:
        problems.add(
            f"tasks.{name}: one class only, {labels.pop()!r} in {len(rows)} rows; a classification needs two or more"
        )


def _split_labelled(rows: list[Found], seed: int) -> list[Labelled]:
    return [
        Labelled(row.id, row.text, row.label, row.split or draw_split(seed, row.text, TASK_SHARES), row.file)
        for row in rows
    ]


def _split_documents(rows: list[Found], source: Source, seed: int) -> list[Document]:
    if len(rows) == 1 and rows[0].split is None:
        return _cut_document(rows[0], source.validation_share)
    open_rows = [row for row in rows if row.split is None]
    drawn = iter(draw_document_splits(seed, [row.text for row in open_rows], source.validation_share))
    return [_document(row, row.id, row.text, row.split or next(drawn)) for row in rows]


def _cut_document(row: Found, validation_share: float) -> list[Document]:
    """The one document there is, cut at the end of a line: its last part is held out."""
    position = round(len(row.text) * (1 - validation_share))
    line_end = row.text.find("\n", position)
    position = line_end + 1 if 0 <= line_end < len(row.text) - 1 else position
    parts = {TRAIN: row.text[:position], VALIDATION: row.text[position:]}
    return [_document(row, f"{row.id}#{split}", text, split) for split, text in parts.items() if text]


def _document(row: Found, identity: str, text: str, split: str) -> Document:
    return Document(identity, text, split, row.file, row.source)
