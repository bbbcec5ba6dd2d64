"""Docstrings and functions of Python files, found by `ast`: nothing is imported or run, so any package can be read.

This module imports nothing heavy: each reading process is started anew and imports it.
"""

import ast
import gc
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.util import decode_source
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from pipeline.common.processes import die_with_parent
from pipeline.corpus.functions import Function, find_functions

FILES_PER_JOB = 16
SMALL_BYTES = 4_000_000  # less source than this is parsed sooner than other processes have started

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class SourceFile:
    """One module of a library. `name` is its path inside the library, with forward slashes on every system."""

    library: str
    module: str
    name: str
    path: str


class Docstring(NamedTuple):
    line: int  # where the docstring begins; no two docstrings of a file share it
    text: str  # without indentation


class Reading(NamedTuple):
    """What one file has, in reading order. `functions`: each, or why it is left out (see `find_functions`)."""

    docstrings: list[Docstring]
    functions: list[Function | str]


def read_all(
    files: list[SourceFile], min_characters: int, processes: int, with_functions: bool = False
) -> Iterator[Reading | str]:
    """Yield each file's docstrings of at least `min_characters`, or why it could not be parsed.

    The order is that of `files`, whatever the number of processes.
    """
    if processes < 2 or sum(Path(file.path).stat().st_size for file in files) < SMALL_BYTES:
        for file in files:
            yield _read(file, min_characters, with_functions)
        return
    pool = ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=_start_process, initargs=(os.getpid(),)
    )
    try:
        read = partial(_read, min_characters=min_characters, with_functions=with_functions)
        yield from pool.map(read, files, chunksize=FILES_PER_JOB)
    finally:
        pool.shutdown(cancel_futures=True)


def _start_process(parent: int) -> None:
    die_with_parent(parent)
    gc.disable()  # trees have no cycles worth a search: parsing takes two thirds of the time without


def _read(file: SourceFile, min_characters: int, with_functions: bool) -> Reading | str:
    try:
        source = Path(file.path).read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's code
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    nodes = list(find_documented(tree))
    docstrings = [Docstring(node.body[0].lineno, text) for node in nodes if (text := ast.get_docstring(node))]
    return Reading(
        [docstring for docstring in docstrings if len(docstring.text) >= min_characters],
        list(find_functions(nodes, decode_source(source))) if with_functions else [],
    )


def find_documented(tree: ast.Module) -> Iterator[Documented]:
    """A module, its classes and functions, nested ones too, in reading order."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, Documented):
            yield node
        waiting.extend(reversed(list(_inner_statements(node))))


def _inner_statements(node: ast.AST) -> Iterator[ast.AST]:
    """Statements inside a statement: the walk never enters expressions, which are most of a tree."""
    for block in ("body", "handlers", "orelse", "finalbody", "cases"):
        inner = getattr(node, block, None)
        if isinstance(inner, list):  # the body of a lambda or of `a if b else c` is an expression
            yield from inner
