"""What registered versions answer to the current test rows of a task: each with its own code, and asked only once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from pipeline.common.errors import HallmarkError
from pipeline.common.files import read_json, sha256_json, write_json
from pipeline.common.layout import clean_task, home
from pipeline.common.params import Params, Task
from pipeline.common.tables import read_table, records
from pipeline.evaluation.comparison import Tally
from pipeline.evaluation.tallies import COUNTED
from pipeline.serving.kinds import Served, find_served
from pipeline.serving.reload import predict_in_fresh_process
from pipeline.tasks.rows import evenly
from pipeline.tracking.mlflow_store import Store
from pipeline.tracking.registry import Version

Predict = Callable[[Store, Version, Sequence[Any]], Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class Exam:
    """The test rows of a task: what versions are asked, and what is true.

    Attributes:
        task: settings of the task.
        rows: of its table.
    """

    task: Task
    rows: pd.DataFrame

    @property
    def served(self) -> Served:
        return find_served(self.task.kind, "pair" in self.rows)

    @cached_property
    def requests(self) -> list[Any]:
        """What a version is asked of each row."""
        return [self.served.request(row) for row in records(self.rows)]

    @cached_property
    def digest(self) -> str:
        """Its identity: what is asked and what is true, in their order."""
        truth = self.rows[COUNTED[self.task.kind].truth]
        return sha256_json([self.rows["id"].astype(str).tolist(), self.requests, truth.tolist()])

    def count(self, *predicted: Sequence[str | None]) -> Tally:
        """What the answers of versions count."""
        return COUNTED[self.task.kind].count(self.rows, predicted, self.task)


def read_exam(task: str, params: Params) -> Exam:
    """The current test rows of a task; of dialogues `promote.dialogues` of them, evenly spread.

    Raises:
        HallmarkError: there are none.
    """
    rows = read_table(clean_task(task))
    test = rows[rows["split"] == "test"].reset_index(drop=True)
    if test.empty:
        raise HallmarkError("there are no test rows to compare on", where=str(clean_task(task)), fix="dvc repro")
    if params.tasks[task].kind == "dialogue":
        test = test.iloc[evenly(len(test), params.promote.dialogues)].reset_index(drop=True)
    return Exam(params.tasks[task], test)


def known_answers(store: Store, version: Version, exam: Exam, predict: Predict) -> list[str | None]:
    """What a version answers, as predictions/TASK.parquet holds it; None where it refuses to answer.

    It is asked once, and again only if it or the exam changed.

    Raises:
        HallmarkError: the version does not answer, or not as a model of this kind does.
    """
    known = home() / "promotions" / f"{sha256_json([version.package_hash, exam.digest])}.json"
    if version.package_hash and known.exists():
        return read_json(known)["predicted"]
    predicted = _said(predict(store, version, exam.requests), version, exam)
    if version.package_hash:
        write_json(known, {"model": version.uri, "predicted": predicted})
    return predicted


def _said(answers: Sequence[Mapping[str, Any]], version: Version, exam: Exam) -> list[str | None]:
    if len(answers) != len(exam.rows):
        raise HallmarkError(f"{len(answers)} answers to {len(exam.rows)} requests", where=version.uri)
    refused = [str(answer["refused"]) for answer in answers if "refused" in answer]
    if refused and not exam.served.may_refuse:
        raise HallmarkError(
            f"this version does not answer {len(refused)} of {len(answers)} test rows; the first one: {refused[0]}",
            where=version.uri,
        )
    try:
        return [None if "refused" in answer else exam.served.said(answer) for answer in answers]
    except KeyError:
        raise HallmarkError(
            f"this version does not answer as a model of kind {exam.task.kind}, but with {', '.join(answers[0])}",
            where=version.uri,
            fix="give a task of another kind another name in params.yaml",
        ) from None


def predict_version(store: Store, version: Version, requests: Sequence[Any]) -> list[dict[str, Any]]:
    """Ask a registered version, in a fresh process: it answers with the code that it was packaged with.

    Returns:
        Its answers, see the served file of the kind of task; `{"refused": WHY}` where it fails at a request, but not at
        all of them.

    Raises:
        HallmarkError: the version cannot be loaded or does not answer; with the process's last lines.
    """
    where = {"MLFLOW_TRACKING_URI": store.uri}
    try:
        return predict_in_fresh_process(version.uri, list(requests), environment=where, refusals=True, timeout=None)
    except RuntimeError as error:
        last = "\n".join(str(error).strip().splitlines()[-3:])
        raise HallmarkError(f"this version does not answer\n{last}", where=version.uri, fix="hallmark doctor") from None
