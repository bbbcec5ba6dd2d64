"""Kind `python-docs`: the documentation of installed libraries, as pretraining text and as the tasks it gives."""

import os
import sysconfig
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from pipeline.common.errors import HallmarkError
from pipeline.common.params import Source
from pipeline.corpus.docs_tasks import COLUMNS, MAKERS, SUMMARISE, Passage, draw_rows
from pipeline.corpus.docstrings import SourceFile, read_all
from pipeline.corpus.forms.labels import LABELS
from pipeline.corpus.installed import STDLIB
from pipeline.corpus.masking import ALIASES, mask_names
from pipeline.corpus.near_duplicates import first_of_their_kind
from pipeline.corpus.rows import (
    DOCUMENT_COLUMNS,
    DOCUMENTS,
    REJECTED_CHARACTERS,
    REJECTED_COLUMNS,
    Corpus,
    Document,
    Rejected,
    frame,
)
from pipeline.corpus.splitting import TEST, TRAIN, VALIDATION, draw_split

LIBRARY = "library"
# Copies of other projects, and files that speak of nothing but a test.
SKIPPED_FOLDERS = {"test", "tests", "vendor", "_vendor", "vendored", "externals", "site-packages", "dist-packages"}


@dataclass(frozen=True)
class Entry:
    """One docstring with its place and split."""

    file: SourceFile
    line: int
    text: str
    masked: str
    split: str


@dataclass(frozen=True)
class Read:
    """What the files of all libraries have. `left_out`: functions by the reason."""

    entries: list[Entry]
    functions: list[Passage]
    left_out: Counter[str]
    rejected: list[Rejected]


def read_python_docs(source: Source, seed: int, tasks: Collection[str] = (LIBRARY,)) -> Corpus:
    """Read the docstrings of `source.libraries`.

    A document is a module's docstrings in reading order; the rows of `library` are the docstrings one by one, with
    every library's names masked. The split is drawn by module. Of near-duplicates one is kept, in the test split rather
    than in validation rather than in training, so what is held out has no copy in any training text. Modules of the
    test split are in no document, modules of the validation split in validation documents; the source of functions is
    in none.

    Args:
        source: the settings.
        seed: of every draw.
        tasks: which of `library` and those of `docs_tasks` to make.
    """
    files = [file for library in source.libraries for file in library_files(library)]
    read = _read_files(files, source, seed, with_functions=SUMMARISE in tasks)
    kept = _without_near_duplicates(read.entries)
    if not kept:
        raise HallmarkError(
            f"no docstring of {source.min_characters} characters or more in {', '.join(source.libraries)}",
            where="params.yaml: source.libraries",
            fix="name other libraries, or lower source.min_characters",
        )
    near_duplicates = len(read.entries) - len(kept)
    facts = {"files": len(files), "docstrings": len(read.entries), "near_duplicates_removed": near_duplicates}
    tables = {}
    if LIBRARY in tasks:
        tables[LIBRARY] = frame([_labelled(entry) for entry in kept], LABELS.columns(with_pair=False))
    for task in (name for name in MAKERS if name in tasks):
        tables[task], found = _make_task(task, read, kept, source, seed)
        facts |= found
    return Corpus(
        documents=frame(list(_documents(kept)), DOCUMENT_COLUMNS),
        tasks=tables,
        rejected=frame(read.rejected, REJECTED_COLUMNS),
        facts=facts,
    )


def _make_task(
    task: str, read: Read, kept: list[Entry], source: Source, seed: int
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table of one of `MAKERS`, and figures about what is not in it."""
    if task == SUMMARISE:
        keep = first_held_out([row.text for row in read.functions], [row.split for row in read.functions])
        passages = [row for row, is_kept in zip(read.functions, keep, strict=True) if is_kept]
        left_out = read.left_out + Counter(near_duplicate=len(keep) - len(passages))
    else:
        passages, left_out = [_passage(entry) for entry in kept], Counter()
    made = MAKERS[task](passages)
    if not made.rows:
        raise HallmarkError(
            f"nothing in {', '.join(source.libraries)} gives a row of the task {task}",
            where="params.yaml: source.libraries",
            fix="name other libraries",
        )
    rows = draw_rows(made.rows, source.task_rows, seed)
    counted = {f"{task}.left_out.{reason}": count for reason, count in sorted((left_out + made.left_out).items())}
    facts = {f"{task}.found": len(made.rows), f"{task}.not_drawn": len(made.rows) - len(rows)} | counted
    return frame(rows, COLUMNS[task]), facts


def library_files(library: str) -> list[SourceFile]:
    """The modules of a library in order of their paths, without tests and vendored copies of other projects."""
    found = _stdlib_files() if library == STDLIB else _distribution_files(library)
    return [
        SourceFile(library, _module_name(name), str(name), str(path)) for name, path in sorted(found) if _is_read(name)
    ]


def _stdlib_files() -> list[tuple[PurePosixPath, Path]]:
    root = Path(sysconfig.get_path("stdlib"))
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
        found += [Path(folder, name) for name in names if name.endswith(".py")]
    return [(PurePosixPath(path.relative_to(root).as_posix()), path) for path in found]


def _distribution_files(library: str) -> list[tuple[PurePosixPath, Path]]:
    try:
        files = metadata.distribution(library).files
    except metadata.PackageNotFoundError:
        files = None
    if not files:
        raise HallmarkError(
            f"{library!r} is not installed, or its list of files is missing",
            where="params.yaml: source.libraries",
            fix="make install",
        )
    return [(PurePosixPath(file.as_posix()), Path(str(file.locate()))) for file in files if file.suffix == ".py"]


def _is_read(name: PurePosixPath) -> bool:
    return (
        not SKIPPED_FOLDERS.intersection(name.parts[:-1])
        and not name.stem.startswith("test_")
        and not name.stem.endswith("_test")
        and name.stem != "conftest"
        and ".." not in name.parts
    )


def _module_name(name: PurePosixPath) -> str:
    parts = name.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def answers(files: list[SourceFile]) -> set[str]:
    """Every name that gives a library away: of the distribution, of its packages, and its usual aliases."""
    libraries = {file.library for file in files}
    packages = {file.module.partition(".")[0] for file in files if file.library != STDLIB}
    return libraries | packages | {alias for library in libraries for alias in ALIASES.get(library, [])}


def _read_files(files: list[SourceFile], source: Source, seed: int, with_functions: bool) -> Read:
    mask = mask_names(answers(files))
    shares = {TEST: source.test_share, VALIDATION: source.validation_share}
    read = Read([], [], Counter(), [])
    readings = read_all(files, source.min_characters, os.cpu_count() or 1, with_functions)
    for file, found in zip(files, readings, strict=True):
        if isinstance(found, str):
            text = Path(file.path).read_text(encoding="utf-8", errors="replace")[:REJECTED_CHARACTERS]
            read.rejected.append(Rejected(DOCUMENTS, _file_id(file), found, text))
            continue
        split = draw_split(seed, file.module, shares)
        read.entries.extend(
            Entry(file, docstring.line, docstring.text, mask(docstring.text), split) for docstring in found.docstrings
        )
        for function in found.functions:
            if isinstance(function, str):
                read.left_out[function] += 1
                continue
            identity = f"{_file_id(file)}:{function.line}"
            read.functions.append(Passage(identity, function.source, split, file.module, function.summary))
    return read


def _without_near_duplicates(entries: list[Entry]) -> list[Entry]:
    keep = first_held_out([entry.masked for entry in entries], [entry.split for entry in entries])
    return [entry for entry, is_kept in zip(entries, keep, strict=True) if is_kept]


def first_held_out(texts: Sequence[str], splits: Sequence[str]) -> list[bool]:
    """For each text whether it is kept: no near-duplicate of it is in a split further out, or before it in its own."""
    precedence = [TEST, VALIDATION, TRAIN]
    order = sorted(range(len(texts)), key=lambda position: precedence.index(splits[position]))
    first = first_of_their_kind(texts[position] for position in order)
    kept = {position for position, is_first in zip(order, first, strict=True) if is_first}
    return [position in kept for position in range(len(texts))]


def _documents(entries: list[Entry]) -> Iterator[Document]:
    texts: defaultdict[SourceFile, list[str]] = defaultdict(list)
    splits = {}
    for entry in entries:
        texts[entry.file].append(entry.text)
        splits[entry.file] = entry.split
    for file, parts in texts.items():
        if splits[file] != TEST:
            yield Document(_file_id(file), "\n\n".join(parts), splits[file], file.module, file.library)


def _labelled(entry: Entry) -> tuple[str, ...]:
    return _entry_id(entry), entry.masked, entry.file.library, entry.split, entry.file.module


def _passage(entry: Entry) -> Passage:
    return Passage(_entry_id(entry), entry.text, entry.split, entry.file.module)


def _entry_id(entry: Entry) -> str:
    return f"{_file_id(entry.file)}:{entry.line}"


def _file_id(file: SourceFile) -> str:
    return f"{file.library}/{file.name}"
