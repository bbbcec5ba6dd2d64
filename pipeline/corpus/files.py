"""Kind `files`: the user's own text and labels, in any language."""

import glob
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.common.columns import Column
from pipeline.common.errors import HallmarkError, Problems, allowed
from pipeline.common.params import Source, Task
from pipeline.corpus.forms.form import PAIR, Form, as_name
from pipeline.corpus.forms.kinds import FORMS
from pipeline.corpus.parallel import UnpairedFilesError, partner, read_pairs
from pipeline.corpus.readers import (
    COMPRESSIONS,
    DOCUMENT_FORMATS,
    SEPARATED_FORMATS,
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
    Corpus,
    Document,
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
SPLIT_WORDS = {"train": TRAIN, "dev": VALIDATION, "val": VALIDATION, "test": TEST}  # that names of files begin with
EXAMPLES = 5  # named in a message


@dataclass(frozen=True)
class Wanted:
    """What to read for one table, and from where. `key` is the setting that names the files.

    `patterns` are globs by the names of their sources; if `each` of them was named on purpose, each has to find a file.
    `columns` are the files' names (or numbers) for what a row has: text, id and split, a second text and the form's
    target.
    `formats` is None where files of any name are read: their lines, beside those of other files.
    """

    table: str
    key: str
    patterns: dict[str, str]
    each: bool
    formats: tuple[str, ...] | None
    splits: tuple[str, ...]
    columns: dict[str, Column]
    task: Task | None = None
    form: Form | None = None


@dataclass(frozen=True)
class Found:
    """One row as the files have it; `split` is None where it is to be drawn. `place` is its file and line (or row)."""

    place: str
    id: str
    text: str
    pair: str
    target: str  # of the form of the task, "" in documents
    split: str | None
    file: str
    source: str


@dataclass(frozen=True)
class Tables:
    """What the files below `source.path` have: labelled rows with their splits, and all that is wrong."""

    documents: list[Found]
    labelled: dict[str, list[Found]]
    rejected: list[Rejected]
    problems: Problems


def read_files(source: Source, tasks: dict[str, Task], seed: int) -> Corpus:
    """Read documents and labelled rows below `source.path`.

    A .txt or .md file is one document, a row of a table is one document or labelled text. Splits are as given, or drawn
    by the text's hash: copies of a text fall on the same side. A single document is cut in two, so that there is
    something to validate on. A document that is also a held-out text of a task is left out: nothing held out is
    pretrained on. Tasks with `pretrain_on` give documents, too.

    Raises:
        HallmarkError: every missing file, column, wrong split name and one-class task at once.
    """
    tables = read_tables(source, tasks, seed)
    tables.problems.raise_if_any(fix="mend these keys in params.yaml or the files that they name")
    return put_together(tables, source, tasks, seed)


def read_tables(source: Source, tasks: dict[str, Task], seed: int) -> Tables:
    """Read all files, and refuse nothing yet but a missing folder."""
    root = Path(source.path)
    if not root.is_dir():
        raise HallmarkError(
            f"there is no folder {source.path!r}",
            where="params.yaml: source.path",
            fix="make the folder and put your text there, or name another",
        )
    problems = Problems("params.yaml")
    rejected: list[Rejected] = []
    found = _read_table(root, _wanted_documents(source), problems, rejected) if source.globs else []
    labelled = {}
    for name, task in tasks.items():
        rows = _read_table(root, _wanted_labels(name, task), problems, rejected)
        labelled[name] = _split_labelled(rows, seed)
        if rows and (reason := FORMS[task.kind].refuse([row.target for row in rows])):
            problems.add(f"tasks.{name}: {reason}")
    return Tables(found, labelled, rejected, problems)


def put_together(tables: Tables, source: Source, tasks: dict[str, Task], seed: int) -> Corpus:
    labelled = tables.labelled
    held_out = {
        text
        for name, rows in labelled.items()
        for row in rows
        if row.split != TRAIN
        for text in _texts(row, tasks[name])
    }
    kept = [row for row in tables.documents if row.text not in held_out]
    documents = _split_documents(kept, source, seed)
    for name in (name for name in labelled if tasks[name].pretrain_on):
        documents += _documents_of_pairs(name, labelled[name])
    return Corpus(
        documents=frame(documents, DOCUMENT_COLUMNS),
        tasks={name: _labelled_table(rows, tasks[name]) for name, rows in labelled.items()},
        rejected=frame(tables.rejected, REJECTED_COLUMNS),
        facts={"documents_held_out_by_tasks": len(tables.documents) - len(kept)},
    )


def _texts(row: Found, task: Task) -> list[str]:
    return [row.text, row.target if FORMS[task.kind].target_is_text else row.pair]


def _documents_of_pairs(task: str, rows: list[Found]) -> list[Document]:
    """The texts and targets of training and validation, each once; what is also tested on is none of them."""
    order = {TEST: 0, VALIDATION: 1, TRAIN: 2}
    seen: set[str] = set()
    documents = []
    for row in sorted(rows, key=lambda row: order[row.split or TRAIN]):
        for part, text in (("text", row.text), ("target", row.target)):
            if row.split != TEST and text not in seen and text.strip():
                documents.append(Document(f"{row.id}#{part}", text, row.split or TRAIN, row.file, task))
            seen.add(text)
    return documents


def _labelled_table(rows: list[Found], task: Task) -> pd.DataFrame:
    form = FORMS[task.kind]
    values = {"id": "id", "text": "text", PAIR: "pair", form.target: "target", "split": "split", "group": "file"}
    columns = form.columns(_pair_column(task) is not None)
    return frame([[getattr(row, values[column]) for column in columns] for row in rows], columns)


def _pair_column(task: Task) -> Column | None:
    return task.pair_column or FORMS[task.kind].pair


def _named(**columns: Column | None) -> dict[str, Column]:
    return {name: column for name, column in columns.items() if column}


def _wanted_documents(source: Source) -> Wanted:
    return Wanted(
        table=DOCUMENTS,
        key="source.documents",
        patterns=source.globs,
        each=isinstance(source.documents, dict),
        formats=DOCUMENT_FORMATS + TABLE_FORMATS,
        splits=DOCUMENT_SPLITS,
        columns=_named(text=source.text_column, id=source.id_column, split=source.split_column),
    )


def _wanted_labels(name: str, task: Task) -> Wanted:
    form = FORMS[task.kind]
    has_text = form.text_of is None or task.label_column is not None
    return Wanted(
        table=task_table(name),
        key=f"tasks.{name}.path",
        patterns={name: task.path or ""},
        each=True,
        formats=None if task.target_path else (*TABLE_FORMATS, *form.readers),
        splits=TASK_SPLITS,
        columns=_named(text=task.text_column if has_text else None, pair=_pair_column(task))
        | _named(id=task.id_column, split=task.split_column)
        | {form.target: task.label_column or form.target},
        task=task,
        form=form,
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
    formats = wanted.formats
    unknown = [] if formats is None else sorted(path for path in files if file_format(path) not in formats)
    for path in unknown[:EXAMPLES]:
        problems.add(f"{wanted.key}: {path}: unknown format; {allowed((*(formats or ()), *COMPRESSIONS))}")
    if len(unknown) > EXAMPLES:
        problems.add(f"{wanted.key}: {len(unknown) - EXAMPLES} more files of unknown formats")
    return {path: source for path, source in sorted(files.items()) if path not in unknown}


def _read_table(root: Path, wanted: Wanted, problems: Problems, rejected: list[Rejected]) -> list[Found]:
    """Rows of every file that `wanted` names; adds what is wrong as a whole to `problems`, bad rows to `rejected`."""
    known, set_aside = len(problems.found), len(rejected)
    numbered, named = _columns_by_sort(wanted)
    if numbered and named:
        problems.add(
            f"{wanted.key.rpartition('.')[0]}: {', '.join(numbered)} by number, but {', '.join(named)} by name; "
            "allowed: numbers for all columns (a table without a header), or names for all"
        )
        return []
    found: list[Found] = []
    for path, source in find_files(root, wanted, problems).items():
        name = path.relative_to(root).as_posix()
        if numbered and file_format(path) in set(TABLE_FORMATS) - set(SEPARATED_FORMATS):
            problems.add(f"{wanted.key}: {path}: has no numbered columns; name them, or give .csv or .tsv")
            continue
        try:
            rows = _read_file(root, name, source, wanted)
            rejected += [row for row in rows if isinstance(row, Rejected)]
            found += [row for row in rows if isinstance(row, Found)]
        except MissingColumnsError as error:
            problems.add(f"{wanted.key}: {path}: {error}")
        except UnpairedFilesError as error:
            problems.add(f"tasks.{source}.target_path: {error}")
    _check_splits(found, wanted, problems)
    if not found and len(problems.found) == known:
        problems.add(f"{wanted.key}: not one text was read{_first_reasons(rejected[set_aside:])}")
    return found


def _columns_by_sort(wanted: Wanted) -> tuple[list[str], list[str]]:
    """The settings that give the number of a column, and those that name one, with its name."""
    settings = {what: f"{what}_column" for what in wanted.columns}
    if wanted.form:
        settings[wanted.form.target] = "label_column"
    numbered = [settings[what] for what, column in wanted.columns.items() if isinstance(column, int)]
    named = [f"{settings[what]} {column!r}" for what, column in wanted.columns.items() if isinstance(column, str)]
    return numbered, named


def _first_reasons(rejected: list[Rejected]) -> str:
    if not rejected:
        return ": the files are empty"
    reasons = "; ".join(f"{row.id}: {row.reason}" for row in rejected[:EXAMPLES])
    hint = " (save as UTF-8: `iconv -f OLD -t UTF-8`)" if any("UTF-8" in row.reason for row in rejected) else ""
    return f", {len(rejected)} set aside: {reasons}{hint}"


def _read_file(root: Path, name: str, source: str, wanted: Wanted) -> list[Found | Rejected]:
    path, task = root / name, wanted.task
    reader = wanted.form.readers.get(file_format(path)) if wanted.form else None
    if task and task.target_path:
        rows = read_pairs(path, root / partner(name, task.path or "", task.target_path))
    elif reader and task:
        rows = reader(path, task)
    elif file_format(path) in DOCUMENT_FORMATS:
        text = read_document(path)
        if isinstance(text, Unreadable):
            return [_reject(text, name, wanted)]
        return [Found(name, name, text, "", "", None, name, source)]
    else:
        rows = read_rows(path, list(dict.fromkeys(wanted.columns.values())))
    return [
        _reject(row, name, wanted)
        if isinstance(row, Unreadable)
        else _find(row, _columns(row, wanted, bool(reader)), name, source, wanted)
        for row in rows
    ]


def _columns(row: Row, wanted: Wanted, own_reader: bool) -> dict[str, Column]:
    """The file's names for what the row has; in formats without a user's names they are ours."""
    plain = own_reader or bool(wanted.task and wanted.task.target_path)
    return {column: column for column in row.values} if plain else wanted.columns


def _reject(row: Unreadable, name: str, wanted: Wanted) -> Rejected:
    place = name if row.number is None else f"{name}:{row.number}"
    text = row.text[:REJECTED_CHARACTERS].encode("utf-8", "replace").decode("utf-8")
    return Rejected(wanted.table, place, row.reason, text)


def _find(row: Row, columns: Mapping[str, Column], name: str, source: str, wanted: Wanted) -> Found | Rejected:
    """Check the values of one row: texts are strings, ids strings or whole numbers, all storable."""
    place = f"{name}:{row.number}"
    values = {what: row.values[column] for what, column in columns.items()}
    text, pair = values.get("text", ""), values.get(PAIR, "")
    identity = as_name(values["id"]) if "id" in columns else place
    split = as_name(values["split"]) or "" if "split" in columns else None
    faults = [
        f"{_column(columns[what])} is {_kind(value)}, not text"
        for what, value in (("text", text), (PAIR, pair))
        if not isinstance(value, str)
    ]
    target: str | None = ""
    if form := wanted.form:
        given = values[form.target]
        joined = form.join is not None and "text" in values
        target = form.parse(form.join(text, given) if form.join and joined else given)
        if target and form.text_of:
            text = form.text_of(target)
        elif not target and not (joined and faults):
            faults.append(
                f"{_column(columns[form.target])} is {_kind(given)}, not {'text' if joined else form.wording}"
            )
            text = text if "text" in values else str(given)
    if not identity:
        faults.append(f"{_column(columns['id'])} is {_kind(values['id'])}, not an id")
    if not is_unicode("".join(value for value in (text, pair, target, identity) if isinstance(value, str))):
        faults.append("half a character (a lone surrogate)")
    if faults:
        return _reject(Unreadable(row.number, "; ".join(faults), str(text)), name, wanted)
    return Found(place, identity or place, text, pair, target or "", split, name, source)


def _column(column: Column) -> str:
    return f"column {column}" if isinstance(column, int) else repr(column)


def _kind(value: Any) -> str:
    if value is None:
        return "missing"
    return "empty" if value == "" else f"{value!r} ({type(value).__name__})"


def _check_splits(found: list[Found], wanted: Wanted, problems: Problems) -> None:
    wrong = [row for row in found if row.split is not None and row.split not in wanted.splits]
    for split, count in sorted(Counter(row.split for row in wrong).items(), key=str):
        first = next(row.id for row in wrong if row.split == split)
        problems.add(
            f"{wanted.table}: column {wanted.columns['split']!r} says {split!r} in {count} rows, first {first}; "
            f"{allowed(wanted.splits)}"
        )


def _split_labelled(rows: list[Found], seed: int) -> list[Found]:
    """Every row with a split: the given one, that of its file's name, or one that is drawn by the text's hash.

    File names say the split where one of them begins with `train` and one with `test`. Without one for validation it
    is drawn from the training rows.
    """
    by_file = {row.file: _named_split(row.file) for row in rows}
    named = set(by_file.values())
    if not {TRAIN, TEST} <= named:
        by_file = dict.fromkeys(by_file)
    shares: dict[str | None, dict[str, float]] = {None: TASK_SHARES}
    if VALIDATION not in named:
        shares[TRAIN] = {VALIDATION: TASK_SHARES[VALIDATION]}

    def split_of(row: Found) -> str:
        found = row.split or by_file[row.file]
        given = row.split is not None or found not in shares
        return found if given and found else draw_split(seed, row.text, shares[found])

    return [replace(row, split=split_of(row)) for row in rows]


def _named_split(name: str) -> str | None:
    """The split that a file is named after: `dev.conll`, `wnut17/train.conll.gz`; None: it is named after none."""
    stem = name.rpartition("/")[2].lower()
    return next((split for word, split in SPLIT_WORDS.items() if stem.startswith(word)), None)


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
