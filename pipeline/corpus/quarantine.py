"""Setting bad rows aside with every reason, and refusing a corpus with too many of them."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.common.errors import HallmarkError
from pipeline.common.params import Validate
from pipeline.common.spans import spans_from_json
from pipeline.corpus.expectations import (
    CRITICAL,
    SPAN_FAULTS,
    WARNING,
    Examiner,
    Outcome,
    label_checks,
    row_checks,
    schema_checks,
    span_checks,
    table_checks,
)
from pipeline.corpus.rows import (
    DOCUMENT_COLUMNS,
    DOCUMENTS,
    QUARANTINE_COLUMNS,
    SPAN_COLUMNS,
    TASK_COLUMNS,
    frame,
    span_labels,
)
from pipeline.corpus.splitting import DOCUMENT_SPLITS, TASK_SPLITS, TEST, TRAIN, VALIDATION

REPLACEMENT = "\ufffd"
CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"  # all of Unicode's Cc but tab and the ends of lines
COPIES = ("no_duplicate", "no_leakage")  # set aside, but counted by max_duplicate_share, not by the budget
EXAMPLES = 5


@dataclass(frozen=True)
class Verdict:
    """One table after validation.

    Attributes:
        clean: the rows that passed, with the columns that they came with.
        quarantined: table, id, reasons, text of the rows that did not.
        outcomes: what became of each check.
        faults: why the table cannot be used; empty if it can.
        counts: rows by fate, for the metrics.
    """

    clean: pd.DataFrame
    quarantined: pd.DataFrame
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
    label = label_column(name, table)
    columns, splits = COLUMNS[label], TASK_SPLITS if label else DOCUMENT_SPLITS
    schema = examiner.examine(f"{name}-schema", table, schema_checks(columns, table.columns.to_list()))
    if faults := _critical_faults(schema, table):
        return Verdict(table.iloc[:0], frame([], QUARANTINE_COLUMNS), schema, faults, {"rows": len(table)})

    table = table.fillna("").reset_index(drop=True)  # a missing value is an empty one
    reasons: defaultdict[int, list[str]] = defaultdict(list)
    by_row = examiner.examine(f"{name}-rows", measure(table), row_checks(settings, splits, label))
    _collect(by_row, range(len(table)), reasons)

    passed = table.drop(index=list(reasons))
    whole = COUNTS[label](find_copies(passed))
    checks = table_checks(settings, splits, whole)
    if passed.empty:
        checks = checks[:1]  # `not_empty` says it all
    elif label and (whole["split"] == TRAIN).any():
        checks += label_checks(settings, whole) if label == "label" else span_checks(whole)
    of_table = examiner.examine(f"{name}-table", whole, checks)
    copies = _collect_copies(whole, reasons)
    _collect([outcome for outcome in of_table if outcome.check.name not in COPIES], whole.index.to_list(), reasons)

    faulty = len(reasons) - len(copies)
    faults = _budget_faults(by_row, of_table, table, whole, rejected, faulty, settings)
    faults += _critical_faults(of_table, whole)
    return Verdict(
        clean=table.drop(index=sorted(reasons))[columns],
        quarantined=_quarantined(name, table, reasons),
        outcomes=[*schema, *by_row, *of_table],
        faults=faults,
        counts={
            "rows": len(table),
            "kept": len(table) - len(reasons),
            "rejected": len(rejected),
            "quarantined": faulty,
            "quarantined_share": (faulty + len(rejected)) / max(1, len(table) + len(rejected)),
            "duplicates": len(copies),
        },
    )


def label_column(name: str, table: pd.DataFrame) -> str | None:
    """The column that holds what a task learns: `label`, or `spans` if the table has it; None for documents."""
    if name == DOCUMENTS:
        return None
    return "spans" if "spans" in table.columns else "label"


def _quarantined(name: str, table: pd.DataFrame, reasons: Mapping[int, list[str]]) -> pd.DataFrame:
    bad = sorted(reasons)
    rows = table.take(bad)
    found = ["; ".join(reasons[row]) for row in bad]
    return frame(
        [(name, *row) for row in zip(rows["id"], found, rows["text"], strict=True)],
        QUARANTINE_COLUMNS,
    )


def measure(table: pd.DataFrame) -> pd.DataFrame:
    """Add the shares (float64, of a text's characters) of U+FFFD and of control characters."""
    length = table["text"].str.len().clip(lower=1)
    if "spans" in table:
        faults = find_span_faults(table["text"].tolist(), table["spans"].tolist())
        table = pd.concat([table, pd.DataFrame(faults, index=table.index, dtype="str")], axis=1)
    return table.assign(
        replacement_share=(table["text"].str.count(REPLACEMENT) / length).astype("float64"),
        control_share=(table["text"].str.count(CONTROL) / length).astype("float64"),
    )


def find_span_faults(texts: Sequence[str], spans: Sequence[str]) -> dict[str, list[str | None]]:
    """For each of `SPAN_FAULTS` the first span of each text that has it, None where none has."""
    faults: dict[str, list[str | None]] = {name: [None] * len(texts) for name in SPAN_FAULTS}
    for row, (text, content) in enumerate(zip(texts, spans, strict=True)):
        end = 0
        for span in spans_from_json(content) if content else []:
            words = text[max(span.start, 0) : max(span.end, 0)]
            found = {
                "span_outside": not 0 <= span.start < span.end <= len(text),
                "span_blank": words != words.strip(),
                "span_overlap": span.start < end,
            }
            for name in (name for name, is_fault in found.items() if is_fault and faults[name][row] is None):
                faults[name][row] = f"{span.start}-{span.end} {span.label}"
            end = max(end, span.end)
    return faults


def count_span_labels(table: pd.DataFrame) -> pd.DataFrame:
    """Add `training_spans` (of a training row with spans), `unknown_label` (the first label of a row that training has
    not) and `untested_label` (of a training row: the first that the test split has not); missing elsewhere.
    """
    unique = table["duplicate_of"].isna() & table["copy_of_held_out"].isna()
    labels = span_labels(table["spans"])
    split, first = table["split"].loc[labels.index], ~labels.index.duplicated()
    training, test = (set(labels[(split == name) & unique.loc[labels.index]]) for name in (TRAIN, TEST))
    unknown, untested = labels[~labels.isin(training)], labels[~labels.isin(test) & (split == TRAIN)]
    return table.assign(
        training_spans=labels[first & (split == TRAIN)].reindex(table.index),
        unknown_label=unknown[~unknown.index.duplicated()].reindex(table.index),
        untested_label=untested[~untested.index.duplicated()].reindex(table.index),
    )


def find_copies(table: pd.DataFrame) -> pd.DataFrame:
    """Add `duplicate_of` and `copy_of_held_out` (the id of the copy that is kept, missing for the kept ones).

    Of equal texts the first is kept, one in the test split rather than in validation rather than in training: what is
    held out must not lose rows to the text that it is held out from.
    """
    precedence = table["split"].map({TEST: 0, VALIDATION: 1, TRAIN: 2})
    order = table.assign(precedence=precedence).sort_values("precedence", kind="stable")
    kept = order.drop_duplicates("text").set_index("text")
    kept_id, kept_split = table["text"].map(kept["id"]), table["text"].map(kept["split"])
    is_copy, same_split = kept_id != table["id"], kept_split == table["split"]
    return table.assign(
        duplicate_of=kept_id.where(is_copy & same_split), copy_of_held_out=kept_id.where(is_copy & ~same_split)
    )


def count_classes(table: pd.DataFrame) -> pd.DataFrame:
    """Add `training_label` and `test_label`, missing outside their splits, and `in_largest_class` (1.0, 0.0 or NaN)."""
    unique = table["duplicate_of"].isna() & table["copy_of_held_out"].isna()
    training_label = table["label"].where(unique & (table["split"] == TRAIN))
    largest = training_label.value_counts().sort_index().sort_values(ascending=False, kind="stable").index[:1]
    return table.assign(
        training_label=training_label,
        test_label=table["label"].where(unique & (table["split"] == TEST)),
        in_largest_class=training_label.isin(largest).astype("float64").where(training_label.notna()),
    )


COLUMNS = {None: DOCUMENT_COLUMNS, "label": TASK_COLUMNS, "spans": SPAN_COLUMNS}
COUNTS: dict[str | None, Callable[[pd.DataFrame], pd.DataFrame]] = {
    None: lambda table: table,
    "label": count_classes,
    "spans": count_span_labels,
}


def _collect(outcomes: Iterable[Outcome], index: Any, reasons: defaultdict[int, list[str]]) -> None:
    """Note each failed row check as a reason of its rows; `index` says which row of the table a position is."""
    for outcome in outcomes:
        if outcome.check.severity == WARNING:
            for position in outcome.positions:
                reasons[index[position]].append(f"{outcome.check.name} (expected: {outcome.check.meaning})")


def _collect_copies(table: pd.DataFrame, reasons: defaultdict[int, list[str]]) -> list[int]:
    copies = []
    for column, remark in (("duplicate_of", ""), ("copy_of_held_out", ", which is held out")):
        kept = table[column].dropna()
        for row, identity in zip(kept.index.to_list(), kept, strict=True):
            reasons[row].append(f"duplicate of {identity}{remark}")
            copies.append(row)
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
            "severity": outcome.check.severity.value,
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
