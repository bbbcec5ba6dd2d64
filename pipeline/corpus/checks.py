"""What a corpus must be like: the checks of a table's schema, of its rows, and of the table as a whole.

A check of severity `warning` is about single rows, which are set aside; a `critical` one is about a table, which then
cannot be used; `info` is for the reader only. `pipeline.corpus.expectations` runs them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from pipeline.common.params import Validate

CRITICAL, WARNING, INFO = "critical", "warning", "info"
Severity = Literal["critical", "warning", "info"]

VISIBLE = r"\S"


@dataclass(frozen=True)
class Check:
    """One expectation, its name in metrics and messages, and what it means.

    `expectation` is a class of `great_expectations.expectations`. `suspects` are the rows to look at when a check of a
    whole table fails; a check of rows finds its own.
    """

    name: str
    meaning: str
    expectation: str
    arguments: dict[str, Any]
    severity: Severity = WARNING
    suspects: "pd.Series[bool] | None" = None


def none_has(name: str, meaning: str, column: str, severity: Severity = WARNING) -> Check:
    """No row has anything in this column."""
    return Check(name, meaning, "ExpectColumnValuesToBeNull", {"column": column}, severity)


def values_within(name: str, meaning: str, column: str, allowed: Sequence[str], severity: Severity = WARNING) -> Check:
    """Every value is one of these."""
    return Check(name, meaning, "ExpectColumnValuesToBeInSet", {"column": column, "value_set": list(allowed)}, severity)


def values_cover(name: str, meaning: str, column: str, wanted: Sequence[str], severity: Severity = CRITICAL) -> Check:
    """Each of these is there."""
    arguments = {"column": column, "value_set": list(wanted)}
    return Check(name, meaning, "ExpectColumnDistinctValuesToContainSet", arguments, severity)


def distinct_at_least(name: str, meaning: str, column: str, fewest: int) -> Check:
    """So many different values are there."""
    arguments = {"column": column, "min_value": fewest}
    return Check(name, meaning, "ExpectColumnUniqueValueCountToBeBetween", arguments, CRITICAL)


def mean_at_most(name: str, meaning: str, column: str, largest: float, suspects: "pd.Series[bool]") -> Check:
    """The mean of the numbers that are there is not above this one."""
    arguments = {"column": column, "max_value": largest}
    return Check(name, meaning, "ExpectColumnMeanToBeBetween", arguments, CRITICAL, suspects)


def matches(name: str, meaning: str, column: str, regex: str = VISIBLE) -> Check:
    """Every value has this in it."""
    return Check(name, meaning, "ExpectColumnValuesToMatchRegex", {"column": column, "regex": regex})


def at_most(name: str, meaning: str, column: str, largest: float) -> Check:
    """No number is above this one."""
    return Check(name, meaning, "ExpectColumnValuesToBeBetween", {"column": column, "max_value": largest})


def schema_checks(columns: Sequence[str], present: Sequence[str]) -> list[Check]:
    """The table has these columns, and those that are `present` hold strings."""
    complete = Check(
        "columns",
        f"the columns are {', '.join(columns)}",
        "ExpectTableColumnsToMatchSet",
        {"column_set": list(columns), "exact_match": True},
        CRITICAL,
    )
    return [complete, *(_is_text(column) for column in columns if column in present)]


def _is_text(column: str) -> Check:
    arguments = {"column": column, "type_": "str"}
    return Check(f"{column}_is_text", f"`{column}` is text", "ExpectColumnValuesToBeOfType", arguments, CRITICAL)


def row_checks(
    settings: Validate, splits: Sequence[str], filled: Mapping[str, str] = {}, faults: Mapping[str, str] = {}
) -> list[Check]:
    """What each row must be like. Needs the columns that `quarantine.measure` adds.

    Args:
        splits: the allowed ones.
        filled: columns beside id and text that may not be empty, and what their values are.
        faults: of the form of the rows.
    """
    lengths = {"min_value": settings.min_characters, "max_value": settings.max_characters}
    return [
        matches("id_not_empty", "every row has an id", "id"),
        Check("id_unique", "no two rows share an id", "ExpectColumnValuesToBeUnique", {"column": "id"}),
        matches("text_not_empty", "every text has a visible character", "text"),
        Check(
            "text_length",
            f"every text has {settings.min_characters:,} to {settings.max_characters:,} characters",
            "ExpectColumnValueLengthsToBeBetween",
            {"column": "text", **lengths},
        ),
        at_most(
            "replacement_characters",
            f"at most {settings.max_replacement_share:.2%} of a text is U+FFFD, the mark of a wrong encoding",
            "replacement_share",
            settings.max_replacement_share,
        ),
        at_most(
            "control_characters",
            f"at most {settings.max_control_share:.2%} of a text is control characters",
            "control_share",
            settings.max_control_share,
        ),
        values_within("split_name", f"the split is one of {', '.join(splits)}", "split", splits),
        *(matches(f"{column}_not_empty", f"every row has {wording}", column) for column, wording in filled.items()),
        *(none_has(name, meaning, name) for name, meaning in faults.items()),
    ]


def table_checks(settings: Validate, splits: Sequence[str], table: pd.DataFrame) -> list[Check]:
    """What the table as a whole must be like. Needs the columns that `quarantine.find_copies` adds."""
    return [
        Check("not_empty", "there are rows", "ExpectTableRowCountToBeBetween", {"min_value": 1}, CRITICAL),
        values_cover("splits_present", f"there are rows in {', '.join(splits)}", "split", splits),
        none_has("no_duplicate", "no text is there twice in a split", "duplicate_of"),
        none_has("no_leakage", "no text is in two splits", "copy_of_held_out"),
        Check(
            "duplicate_share",
            f"at most {settings.max_duplicate_share:.2%} of the texts are copies of others",
            "ExpectColumnProportionOfUniqueValuesToBeBetween",
            {"column": "content", "min_value": 1 - settings.max_duplicate_share},
            CRITICAL,
            table["duplicate_of"].notna() | table["copy_of_held_out"].notna(),
        ),
    ]
