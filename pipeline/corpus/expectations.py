"""What a corpus must be like, as Great Expectations suites. The only module that imports Great Expectations.

Each table is examined three times: its schema, its rows, and, without the rows that failed, the table as a whole. A
check of severity `warning` is about single rows, which are set aside; a `critical` one is about a table, which then
cannot be used; `info` is for the reader only.
"""

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import great_expectations as gx
import great_expectations.expectations as gxe
import numpy as np
import pandas as pd
from great_expectations.data_context.types.base import ProgressBarsConfig
from great_expectations.expectations.metadata_types import FailureSeverity

from pipeline.common.params import Validate

CRITICAL, WARNING, INFO = FailureSeverity.CRITICAL, FailureSeverity.WARNING, FailureSeverity.INFO

VISIBLE = r"\S"
SPAN_FAULTS = {
    "span_outside": "every span lies in its text and has a character",
    "span_blank": "no span begins or ends with white space",
    "span_overlap": "no two spans of a text overlap",
}
SITE = "hallmark"
# Indices are labels of the frame's index; no pandas query that would print them all.
RESULT_FORMAT = {"result_format": "COMPLETE", "return_unexpected_index_query": False}


@dataclass(frozen=True)
class Check:
    """One expectation, its name in metrics and messages, and what it means.

    `suspects` are the rows to look at when a check of a whole table fails; a check of rows finds its own.
    """

    name: str
    meaning: str
    expectation: type[gxe.Expectation]
    arguments: dict[str, Any]
    severity: FailureSeverity = WARNING
    suspects: "pd.Series[bool] | None" = None


@dataclass(frozen=True)
class Outcome:
    """What became of a check.

    Attributes:
        positions: int64, the failing rows of the table that was examined.
        rows: how many they are, of `examined` rows.
        observed: what was found, in words, where a whole table was examined.
    """

    check: Check
    success: bool
    positions: np.ndarray
    rows: int
    examined: int
    observed: str


class Examiner:
    """Runs checks in an ephemeral context and writes its results as HTML pages below `pages`."""

    def __init__(self, pages: Path) -> None:
        logging.getLogger("great_expectations").setLevel(logging.ERROR)
        self._context = gx.get_context(mode="ephemeral")
        self._context.variables.progress_bars = ProgressBarsConfig(globally=False)
        self._source = self._context.data_sources.add_pandas("corpus")
        self._pages = pages

    def examine(self, name: str, table: pd.DataFrame, checks: Sequence[Check]) -> list[Outcome]:
        """Run `checks` on `table`. `name` is that of the suite and of its page, which is a file.

        Raises:
            RuntimeError: an expectation could not be computed. That is a fault of the program, not of the data.
        """
        table, name = table.reset_index(drop=True), name.replace("/", "-")
        suite = self._context.suites.add(
            gx.ExpectationSuite(name=name, expectations=[_build(check) for check in checks])
        )
        batch = self._source.add_dataframe_asset(name).add_batch_definition_whole_dataframe(name)
        definition = self._context.validation_definitions.add(
            gx.ValidationDefinition(name=name, data=batch, suite=suite)
        )
        results: list[Any] = definition.run(batch_parameters={"dataframe": table}, result_format=RESULT_FORMAT).results
        by_name = {result.expectation_config.meta["name"]: result for result in results}
        return [_outcome(check, by_name[check.name], table) for check in checks]

    def write_pages(self) -> Path:
        """Write the pages anew and return the first one. They have times in them: never a stage's output."""
        shutil.rmtree(self._pages, ignore_errors=True)
        backend = {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(self._pages)}
        site = {
            "class_name": "SiteBuilder",
            "store_backend": backend,
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        }
        self._context.add_data_docs_site(site_name=SITE, site_config=site)
        self._context.build_data_docs(site_names=[SITE])
        return self._pages / "index.html"


def _build(check: Check) -> gxe.Expectation:
    return check.expectation(
        **check.arguments, severity=check.severity, description=check.meaning, meta={"name": check.name}
    )


def _outcome(check: Check, result: Any, table: pd.DataFrame) -> Outcome:
    if fault := _raised(result.exception_info):
        raise RuntimeError(f"expectation {check.name} could not be computed: {fault}")
    found = result.result.get("unexpected_index_list") or []
    if check.suspects is not None and not result.success:
        found = check.suspects.to_numpy().nonzero()[0]
    positions = np.unique(np.asarray(found, dtype=np.int64))
    return Outcome(check, bool(result.success), positions, len(positions), len(table), _observed(result.result))


def _observed(result: Mapping[str, Any]) -> str:
    """What was found, in words, where an expectation about a whole table says it."""
    if missing := result.get("partial_missing_list"):
        return f"missing: {', '.join(sorted(map(str, missing)))}"  # a set's order varies from process to process
    value = result.get("observed_value")
    if isinstance(value, list):
        return f"observed: {', '.join(map(str, value))}"
    return f"observed: {value:.4g}" if isinstance(value, float | int) else ""


def _raised(info: Any) -> str | None:
    """The message in `exception_info`: one dict, or one per metric."""
    for part in [info, *(info or {}).values()]:
        if isinstance(part, dict) and part.get("raised_exception"):
            return str(part.get("exception_message"))
    return None


def schema_checks(columns: Sequence[str], present: Sequence[str]) -> list[Check]:
    """The table has these columns, and those that are `present` hold strings."""
    complete = Check(
        "columns",
        f"the columns are {', '.join(columns)}",
        gxe.ExpectTableColumnsToMatchSet,
        {"column_set": list(columns), "exact_match": True},
        CRITICAL,
    )
    types = [
        Check(
            f"{column}_is_text",
            f"`{column}` is text",
            gxe.ExpectColumnValuesToBeOfType,
            {"column": column, "type_": "str"},
            CRITICAL,
        )
        for column in columns
        if column in present
    ]
    return [complete, *types]


def row_checks(settings: Validate, splits: Sequence[str], label: str | None) -> list[Check]:
    """What each row must be like. Needs the columns that `quarantine.measure` adds.

    Args:
        label: the column that holds what is learned, `label` or `spans`; None: documents, which have none.
    """
    lengths = {"min_value": settings.min_characters, "max_value": settings.max_characters}
    checks = [
        Check(
            "id_not_empty",
            "every row has an id",
            gxe.ExpectColumnValuesToMatchRegex,
            {"column": "id", "regex": VISIBLE},
        ),
        Check("id_unique", "no two rows share an id", gxe.ExpectColumnValuesToBeUnique, {"column": "id"}),
        Check(
            "text_not_empty",
            "every text has a visible character",
            gxe.ExpectColumnValuesToMatchRegex,
            {"column": "text", "regex": VISIBLE},
        ),
        Check(
            "text_length",
            f"every text has {settings.min_characters:,} to {settings.max_characters:,} characters",
            gxe.ExpectColumnValueLengthsToBeBetween,
            {"column": "text", **lengths},
        ),
        Check(
            "replacement_characters",
            f"at most {settings.max_replacement_share:.2%} of a text is U+FFFD, the mark of a wrong encoding",
            gxe.ExpectColumnValuesToBeBetween,
            {"column": "replacement_share", "max_value": settings.max_replacement_share},
        ),
        Check(
            "control_characters",
            f"at most {settings.max_control_share:.2%} of a text is control characters",
            gxe.ExpectColumnValuesToBeBetween,
            {"column": "control_share", "max_value": settings.max_control_share},
        ),
        Check(
            "split_name",
            f"the split is one of {', '.join(splits)}",
            gxe.ExpectColumnValuesToBeInSet,
            {"column": "split", "value_set": list(splits)},
        ),
    ]
    if label == "label":
        checks.append(
            Check(
                "label_not_empty",
                "every row has a label",
                gxe.ExpectColumnValuesToMatchRegex,
                {"column": "label", "regex": VISIBLE},
            )
        )
    if label == "spans":
        checks += [
            Check(name, meaning, gxe.ExpectColumnValuesToBeNull, {"column": name})
            for name, meaning in SPAN_FAULTS.items()
        ]
    return checks


def table_checks(settings: Validate, splits: Sequence[str], table: pd.DataFrame) -> list[Check]:
    """What the table as a whole must be like. Needs the columns that `quarantine.find_copies` adds."""
    return [
        Check("not_empty", "there are rows", gxe.ExpectTableRowCountToBeBetween, {"min_value": 1}, CRITICAL),
        Check(
            "splits_present",
            f"there are rows in {', '.join(splits)}",
            gxe.ExpectColumnDistinctValuesToContainSet,
            {"column": "split", "value_set": list(splits)},
            CRITICAL,
        ),
        Check(
            "no_duplicate",
            "no text is there twice in a split",
            gxe.ExpectColumnValuesToBeNull,
            {"column": "duplicate_of"},
        ),
        Check("no_leakage", "no text is in two splits", gxe.ExpectColumnValuesToBeNull, {"column": "copy_of_held_out"}),
        Check(
            "duplicate_share",
            f"at most {settings.max_duplicate_share:.2%} of the texts are copies of others",
            gxe.ExpectColumnProportionOfUniqueValuesToBeBetween,
            {"column": "text", "min_value": 1 - settings.max_duplicate_share},
            CRITICAL,
            table["duplicate_of"].notna() | table["copy_of_held_out"].notna(),
        ),
    ]


def label_checks(settings: Validate, table: pd.DataFrame) -> list[Check]:
    """What the labels must be like. Needs the columns that `quarantine.find_copies` and `count_classes` add."""
    known = sorted(table["training_label"].dropna().unique())
    return [
        Check(
            "class_count",
            "the training split has two classes or more",
            gxe.ExpectColumnUniqueValueCountToBeBetween,
            {"column": "training_label", "min_value": 2},
            CRITICAL,
        ),
        Check(
            "class_balance",
            f"the largest class has at most {settings.max_class_share:.0%} of the training split",
            gxe.ExpectColumnMeanToBeBetween,
            {"column": "in_largest_class", "max_value": settings.max_class_share},
            CRITICAL,
            table["in_largest_class"] == 1.0,
        ),
        Check(
            "label_known",
            "every label is in the training split, too",
            gxe.ExpectColumnValuesToBeInSet,
            {"column": "label", "value_set": known},
        ),
        Check(
            "label_tested",
            "every label of the training split is in the test split, too",
            gxe.ExpectColumnDistinctValuesToContainSet,
            {"column": "test_label", "value_set": known},
            INFO,
        ),
    ]


def span_checks(table: pd.DataFrame) -> list[Check]:
    """What the labels of spans must be like. Needs the columns that `quarantine.count_span_labels` adds."""
    return [
        Check(
            "spans_to_learn",
            "a text of the training split has a span",
            gxe.ExpectColumnUniqueValueCountToBeBetween,
            {"column": "training_spans", "min_value": 1},
            CRITICAL,
        ),
        Check(
            "label_known",
            "every label of a span is in the training split, too",
            gxe.ExpectColumnValuesToBeNull,
            {"column": "unknown_label"},
        ),
        Check(
            "label_tested",
            "every label of the training split is in the test split, too",
            gxe.ExpectColumnValuesToBeNull,
            {"column": "untested_label"},
            INFO,
        ),
    ]
