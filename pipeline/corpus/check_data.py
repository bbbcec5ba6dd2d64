"""A user's files, read and judged as `ingest` and `validate` will without building: what is wrong, row by row."""

import tempfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipeline.common.errors import HallmarkError, allowed
from pipeline.common.params import Params
from pipeline.corpus.checks import INFO
from pipeline.corpus.expectations import Examiner
from pipeline.corpus.files import put_together, read_tables
from pipeline.corpus.quarantine import Verdict, judge
from pipeline.corpus.rows import DOCUMENTS, task_table

EXAMPLES = 5  # shown of each group
VALUE_CHARACTERS = 80
OF_DOCUMENTS = (DOCUMENTS, "source")  # how problems that are not of a task begin
SAVE_AS_UTF8 = "save the file as UTF-8: `iconv -f OLD -t UTF-8`"


@dataclass(frozen=True)
class Group:
    """Rows with one and the same fault: their places, and what each has there."""

    fault: str
    rows: list[tuple[str, str]]

    def lines(self) -> Iterator[str]:
        yield f"  {len(self.rows):,} x {self.fault}"
        for place, value in self.rows[:EXAMPLES]:
            yield f"      {place}  {_short(value)}".rstrip()
        if len(self.rows) > EXAMPLES:
            yield f"      ... and {len(self.rows) - EXAMPLES:,} more"


@dataclass(frozen=True)
class Checked:
    """One table. `stops` say why the build would stop at it, `remarks` what is only good to know."""

    table: str
    rows: int
    kept: int
    groups: list[Group]
    stops: list[str]
    remarks: list[str]

    def lines(self) -> Iterator[str]:
        yield f"{self.table}: {self.rows:,} rows, {self.kept:,} can be used"
        for group in self.groups:
            yield from group.lines()
        yield from (f"  good to know: {remark}" for remark in self.remarks)
        yield from (f"  the build would stop: {stop}" for stop in self.stops)


@dataclass(frozen=True)
class Findings:
    """All tables, and what is wrong with the settings or with whole files."""

    tables: list[Checked]
    problems: list[str]

    @property
    def stops(self) -> bool:
        return bool(self.problems) or any(table.stops for table in self.tables)

    def lines(self) -> Iterator[str]:
        for table in self.tables:
            yield from table.lines()
        yield from (f"the build would stop: {problem}" for problem in self.problems)
        if not self.stops:
            set_aside = sum(len(group.rows) for table in self.tables for group in table.groups)
            yield "the build would go on" + (", without the rows above" if set_aside else ": nothing is wrong")


def check_data(params: Params, task: str | None = None) -> Findings:
    """Read the files of one task; without a name those of all tasks and, for kind files, of the documents.

    Raises:
        HallmarkError: there is no such task, or nothing that has files.
    """
    if task is not None and task not in params.tasks:
        raise HallmarkError(f"there is no task {task!r}; {allowed(params.tasks)}", where="params.yaml: tasks")
    tasks = {name: found for name, found in params.tasks.items() if found.path and task in (None, name)}
    if not tasks:
        raise HallmarkError(
            f"{f'task {task}' if task else 'every task'} has its rows from python-docs: there is no file to check",
            where="params.yaml: tasks",
            fix="name a file: source.kind and tasks.NAME.path",
        )
    tables = read_tables(params.source, tasks, params.seed)
    corpus = put_together(tables, params.source, tasks, params.seed)
    wanted = {
        task_table(name): (table, [row.place for row in tables.labelled[name]]) for name, table in corpus.tasks.items()
    }
    if task is None and params.source.kind == "files":  # beside libraries, documents are judged with theirs
        wanted[DOCUMENTS] = (corpus.documents, corpus.documents["id"].to_list())
    with tempfile.TemporaryDirectory() as folder:
        examiner = Examiner(Path(folder))
        checked = [
            _check(name, rows, places, corpus.rejected[corpus.rejected["table"] == name], params, examiner)
            for name, (rows, places) in wanted.items()
        ]
    problems = [found for found in tables.problems.found if task is None or not found.startswith(OF_DOCUMENTS)]
    return Findings(checked, problems)


def _check(
    name: str, rows: pd.DataFrame, places: list[str], rejected: pd.DataFrame, params: Params, examiner: Examiner
) -> Checked:
    groups = _unreadable(rejected)
    if rows.empty:  # what the reader says of it is enough
        return Checked(name, len(rejected), 0, groups, [], [])
    verdict = judge(name, rows, rejected, params.validate_, examiner)
    remarks = [
        f"{outcome.check.meaning}: {outcome.observed}"
        for outcome in verdict.outcomes
        if outcome.check.severity == INFO and not outcome.success
    ]
    groups += _set_aside(verdict, places)
    return Checked(name, len(rows) + len(rejected), len(verdict.clean), groups, verdict.faults, remarks)


def _unreadable(rejected: pd.DataFrame) -> list[Group]:
    """Rows that could not be read, by the first words of the reason."""
    groups: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for place, reason in zip(rejected["id"], rejected["reason"], strict=True):
        fault = f"not UTF-8 ({SAVE_AS_UTF8})" if "not UTF-8" in reason else "not readable"
        groups[fault].append((place, reason))
    return [Group(fault, rows) for fault, rows in groups.items()]


def _set_aside(verdict: Verdict, places: list[str]) -> list[Group]:
    groups: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for remark in verdict.remarks:
        groups[f"{remark.check} (expected: {remark.meaning})"].append((places[remark.row], remark.value))
    return [Group(fault, rows) for fault, rows in groups.items()]


def _short(value: str) -> str:
    value = " ".join(value.split())
    return value if len(value) <= VALUE_CHARACTERS else f"{value[: VALUE_CHARACTERS - 3]}..."
