"""Kind `python-docs`: the documentation of installed libraries, as pretraining text and as the task `library`."""

import os
import sysconfig
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePosixPath

from pipeline.common.errors import HallmarkError
from pipeline.common.params import Source
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

TASK = "library"
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


def read_python_docs(source: Source, seed: int) -> Corpus:
    """Read the docstrings of `source.libraries`.

    A document is a module's docstrings in reading order; the task's rows are the docstrings one by one, with every
    library's names masked. The split is drawn by module. Of near-duplicates one is kept, in the test split rather than
    in validation rather than in training, so what is held out has no copy in any training text. Modules of the test
    split are in no document, modules of the validation split in validation documents.
    """
    files = [file for library in source.libraries for file in library_files(library)]
    entries, rejected = _read_entries(files, source, seed)
    kept = _without_near_duplicates(entries)
    if not kept:
        raise HallmarkError(
            f"no docstring of {source.min_characters} characters or more in {', '.join(source.libraries)}",
            where="params.yaml: source.libraries",
            fix="name other libraries, or lower source.min_characters",
        )
    return Corpus(
        documents=frame(list(_documents(kept)), DOCUMENT_COLUMNS),
        tasks={TASK: frame([_labelled(entry) for entry in kept], LABELS.columns(with_pair=False))},
        rejected=frame(rejected, REJECTED_COLUMNS),
        facts={"files": len(files), "docstrings": len(entries), "near_duplicates_removed": len(entries) - len(kept)},
    )


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


def _read_entries(files: list[SourceFile], source: Source, seed: int) -> tuple[list[Entry], list[Rejected]]:
    mask = mask_names(answers(files))
    shares = {TEST: source.test_share, VALIDATION: source.validation_share}
    entries: list[Entry] = []
    rejected: list[Rejected] = []
    for file, found in zip(files, read_all(files, source.min_characters, os.cpu_count() or 1), strict=True):
        if isinstance(found, str):
            text = Path(file.path).read_text(encoding="utf-8", errors="replace")[:REJECTED_CHARACTERS]
            rejected.append(Rejected(DOCUMENTS, _file_id(file), found, text))
            continue
        split = draw_split(seed, file.module, shares)
        entries += [Entry(file, docstring.line, docstring.text, mask(docstring.text), split) for docstring in found]
    return entries, rejected


def _without_near_duplicates(entries: list[Entry]) -> list[Entry]:
    precedence = [TEST, VALIDATION, TRAIN]
    order = sorted(range(len(entries)), key=lambda position: precedence.index(entries[position].split))
    first = first_of_their_kind(entries[position].masked for position in order)
    kept = {position for position, is_first in zip(order, first, strict=True) if is_first}
    return [entry for position, entry in enumerate(entries) if position in kept]


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
    identity = f"{_file_id(entry.file)}:{entry.line}"
    return identity, entry.masked, entry.file.library, entry.split, entry.file.module


def _file_id(file: SourceFile) -> str:
    return f"{file.library}/{file.name}"
