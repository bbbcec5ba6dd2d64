"""Setting bad rows aside with every reason, and refusing a corpus with too many of them."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from pipeline.common.errors import HallmarkError
from pipeline.common.params import Validate
from pipeline.corpus.checks import CRITICAL, WARNING, row_checks, schema_checks, table_checks
from pipeline.corpus.expectations import Examiner, Outcome
from pipeline.corpus.forms.form import PAIR, Form
from pipeline.corpus.forms.kinds import form_of
from pipeline.corpus.rows import DOCUMENT_COLUMNS, DOCUMENTS, QUARANTINE_COLUMNS, frame
from pipeline.corpus.splitting import DOCUMENT_SPLITS, TASK_SPLITS, TEST, TRAIN, VALIDATION

REPLACEMENT = "\ufffd"
CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"  # all of Unicode's Cc but tab and the ends of lines
COPIES = ("no_duplicate", "no_leakage")  # set aside, but counted by max_duplicate_share, not by the budget
EXAMPLES = 5
VALUE_CHARACTERS = 200  # of a value that is not as it should be, this much is kept to be shown


class Remark(NamedTuple):
    """One reason why a row is set aside.

    `row` is its place in the table, `check` and `meaning` are what it fails, `value` is the beginning of what it has in
    the column that was looked at; of a copy, what it is a copy of.
    """

    row: int
    check: str
    meaning: str
    value: str

    @property
    def reason(self) -> str:
        return self.value if self.check in COPIES else f"{self.check} (expected: {self.meaning})"


@dataclass(frozen=True)
class Verdict:
    """One table after validation.

    Attributes:
        clean: the rows that passed, with the columns that they came with.
        quarantined: table, id, reasons, text of the rows that did not.
        remarks: why they did not, one for each reason.
        outcomes: what became of each check.
        faults: why the table cannot be used; empty if it can.
        counts: rows by fate, for the metrics.
    """

    clean: pd.DataFrame
    quarantined: pd.DataFrame
    remarks: list[Remark]
    outcomes: list[Outcome]
    faults: list[str]
    counts: dict[str, Any]


def judge(name: str, table: pd.DataFrame, rejected: pd.DataFrame, settings: Validate, examiner: Examiner) -> Verdict:
    """Examine one table.

    Args:
        name: `documents` or `tasks/TASK`.
        table: its rows, as `ingest` wrote them.
        rejected: what `ingest` could not read of it; these rows count into the budget.
    """
    form = None if name == DOCUMENTS else form_of(table.columns.to_list())
    pair = [PAIR] if form and PAIR in table.columns else []
    columns = form.columns(bool(pair)) if form else DOCUMENT_COLUMNS
    splits = TASK_SPLITS if form else DOCUMENT_SPLITS
    schema = examiner.examine(f"{name}-schema", table, schema_checks(columns, table.columns.to_list()))
    if faults := _critical_faults(schema, table):
        return Verdict(table.iloc[:0], frame([], QUARANTINE_COLUMNS), [], schema, faults, {"rows": len(table)})

    table = table.fillna("").reset_index(drop=True)  # a missing value is an empty one
    remarks: list[Remark] = []
    filled = dict.fromkeys(pair, "a second text") | {form.target: form.wording} if form else {}
    faults = form.faults if form else {}
    measured = measure(table, form)
    by_row = examiner.examine(f"{name}-rows", measured, row_checks(settings, splits, filled, faults))
    remarks += _failures(by_row, measured)

    passed = table.drop(index=list({remark.row for remark in remarks}))
    whole = find_copies(passed)
    checks = table_checks(settings, splits, whole)
    if passed.empty:
        checks = checks[:1]  # `not_empty` says it all
    elif form and (whole["split"] == TRAIN).any():
        whole, of_targets = form.checks(settings, whole)
        checks += of_targets
    of_table = examiner.examine(f"{name}-table", whole, checks)
    copies = _copies(whole)
    remarks += copies
    remarks += _failures([outcome for outcome in of_table if outcome.check.name not in COPIES], whole)
    bad = {remark.row for remark in remarks}

    faulty = len(bad) - len(copies)
    faults = _budget_faults(by_row, of_table, table, whole, rejected, faulty, settings)
    faults += _critical_faults(of_table, whole)
    return Verdict(
        clean=table.drop(index=sorted(bad))[columns],
        quarantined=_quarantined(name, table, remarks),
        remarks=remarks,
        outcomes=[*schema, *by_row, *of_table],
        faults=faults,
        counts={
            "rows": len(table),
            "kept": len(table) - len(bad),
            "rejected": len(rejected),
            "quarantined": faulty,
            "quarantined_share": (faulty + len(rejected)) / max(1, len(table) + len(rejected)),
            "duplicates": len(copies),
        },
    )


def _quarantined(name: str, table: pd.DataFrame, remarks: list[Remark]) -> pd.DataFrame:
    reasons: defaultdict[int, list[str]] = defaultdict(list)
    for remark in remarks:
        reasons[remark.row].append(remark.reason)
    bad = sorted(reasons)
    rows = table.take(bad)
    found = ["; ".join(reasons[row]) for row in bad]
    return frame(
        [(name, *row) for row in zip(rows["id"], found, rows["text"], strict=True)],
        QUARANTINE_COLUMNS,
    )


def measure(table: pd.DataFrame, form: Form | None = None) -> pd.DataFrame:
    """Add the shares (float64, of a text's characters) of U+FFFD and of control characters, and the form's faults."""
    length = table["text"].str.len().clip(lower=1)
    if form and form.faults:
        faults = pd.DataFrame(form.find_faults(table), index=table.index, dtype="str")
        table = pd.concat([table, faults], axis=1)
    return table.assign(
        replacement_share=(table["text"].str.count(REPLACEMENT) / length).astype("float64"),
        control_share=(table["text"].str.count(CONTROL) / length).astype("float64"),
    )


def find_copies(table: pd.DataFrame) -> pd.DataFrame:
    """Add `content` (what makes a row: its text and the second one), `duplicate_of` and `copy_of_held_out` (the id of
    the copy that is kept, missing for the kept ones).

    Of equal contents the first is kept, one in the test split rather than in validation rather than in training: what
    is held out must not lose rows to the text that it is held out from.
    """
    precedence = table["split"].map({TEST: 0, VALIDATION: 1, TRAIN: 2})
    table = table.assign(content=table["text"] + "\0" + table[PAIR] if PAIR in table else table["text"])
    order = table.assign(precedence=precedence).sort_values("precedence", kind="stable")
    kept = order.drop_duplicates("content").set_index("content")
    kept_id, kept_split = table["content"].map(kept["id"]), table["content"].map(kept["split"])
    is_copy, same_split = kept_id != table["id"], kept_split == table["split"]
    return table.assign(
        duplicate_of=kept_id.where(is_copy & same_split), copy_of_held_out=kept_id.where(is_copy & ~same_split)
    )


def _failures(outcomes: Iterable[Outcome], table: pd.DataFrame) -> Iterator[Remark]:
    """What the rows of the examined table fail; its index says which rows they were at first."""
    for outcome in outcomes:
        if outcome.check.severity == WARNING:
            rows = table.iloc[outcome.positions]
            values = rows[outcome.check.arguments.get("column", "id")]
            for row, value in zip(rows.index.to_list(), values, strict=True):
                yield Remark(row, outcome.check.name, outcome.check.meaning, str(value)[:VALUE_CHARACTERS])


def _copies(table: pd.DataFrame) -> list[Remark]:
    copies = []
    for column, name, meaning, remark in (
        ("duplicate_of", "no_duplicate", "no text is there twice in a split", ""),
        ("copy_of_held_out", "no_leakage", "no text is in two splits", ", which is held out"),
    ):
        kept = table[column].dropna()
        copies += [
            Remark(row, name, meaning, f"duplicate of {identity}{remark}")
            for row, identity in zip(kept.index.to_list(), kept, strict=True)
        ]
    return copies


def _critical_faults(outcomes: list[Outcome], table: pd.DataFrame) -> list[str]:
    return [
        f"expectation {_describe(outcome, table)}"
        for outcome in outcomes
        if outcome.check.severity == CRITICAL and not outcome.success
    ]


def _budget_faults(
    by_row: list[Outcome],
    of_table: list[Outcome],
    table: pd.DataFrame,
    whole: pd.DataFrame,
    rejected: pd.DataFrame,
    faulty: int,
    settings: Validate,
) -> list[str]:
    """Why more was set aside than `max_quarantined_share` allows: each expectation with its rows."""
    total, bad = len(table) + len(rejected), faulty + len(rejected)
    if bad <= settings.max_quarantined_share * total:
        return []
    parts = [_describe(outcome, table) for outcome in by_row if not outcome.success]
    parts += [
        _describe(outcome, whole)
        for outcome in of_table
        if outcome.check.severity == WARNING and not outcome.success and outcome.check.name not in COPIES
    ]
    if len(rejected):
        first = ", ".join(rejected["id"][:EXAMPLES])
        parts.append(f"not readable: {len(rejected)} rows, first: {first} ({rejected['reason'].iloc[0]})")
    return [
        f"{bad} of {total} rows set aside ({bad / total:.2%}), "
        f"above validate.max_quarantined_share ({settings.max_quarantined_share:.2%}):"
        + "".join(f"\n      {part}" for part in parts)
    ]


def _describe(outcome: Outcome, table: pd.DataFrame) -> str:
    """`text_not_empty (every text has a visible character): 3 rows, first: a, b, c`."""
    sentence = f"{outcome.check.name} ({outcome.check.meaning})"
    if outcome.observed and not outcome.success:
        sentence += f", {outcome.observed}"
    if not outcome.rows:
        return sentence
    ids = ", ".join(table["id"].iloc[outcome.positions[:EXAMPLES].tolist()])
    return f"{sentence}: {outcome.rows} rows, first: {ids}"


def describe_outcomes(outcomes: Iterable[Outcome]) -> dict[str, dict[str, Any]]:
    """Each check by name, as metrics and report show it."""
    return {
        outcome.check.name: {
            "meaning": outcome.check.meaning,
            "severity": outcome.check.severity,
            "success": outcome.success,
            "rows": outcome.rows,
            "share": outcome.rows / max(1, outcome.examined),
        }
        for outcome in outcomes
    }


def refuse(verdicts: dict[str, Verdict], quarantine: Path, page: Path) -> None:
    """Raise one `HallmarkError` with the faults of every table, if there is one."""
    faults = [f"{name}: {fault}" for name, verdict in verdicts.items() for fault in verdict.faults]
    if faults:
        raise HallmarkError(
            "the corpus does not pass" + "".join(f"\n  - {fault}" for fault in faults),
            where="data/raw",
            fix=f"look at {quarantine} and {page}; then mend the source, or raise the limit in params.yaml: validate",
        )
