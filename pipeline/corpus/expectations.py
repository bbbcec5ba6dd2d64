"""Checks as Great Expectations suites, run and shown. The only module that imports Great Expectations."""

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

from pipeline.corpus.checks import Check

SITE = "hallmark"
# Indices are labels of the frame's index; no pandas query that would print them all.
RESULT_FORMAT = {"result_format": "COMPLETE", "return_unexpected_index_query": False}


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
    return getattr(gxe, check.expectation)(
        **check.arguments,
        severity=FailureSeverity(check.severity),
        description=check.meaning,
        meta={"name": check.name},
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
