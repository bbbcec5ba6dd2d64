"""Promotion: may the challenger become champion? Both answer the same test set; the decision is recorded.

    champion    the version in use      previous    the one in use before; `rollback` swaps the two
    challenger  the newest build        first champion: there is nothing to compare with, the floors alone decide

Every decision is a run of the MLflow experiment `promotions`, with both versions, the figures and the verdict.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from pipeline.common.errors import HallmarkError, allowed
from pipeline.common.files import read_json, sha256_json, write_json
from pipeline.common.label_sets import labels_from_json, labels_to_json
from pipeline.common.layout import clean_task, home
from pipeline.common.params import Params, Promote, load_params
from pipeline.common.tables import read_table, records
from pipeline.evaluation.comparison import Comparison, Figures, compare, compare_sets, measure, measure_sets
from pipeline.serving.kinds import find_served
from pipeline.tracking import mlflow_runs
from pipeline.tracking.build import git_state
from pipeline.tracking.mlflow_store import TRACKER_ERRORS, Store, open_store
from pipeline.tracking.registry import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    Version,
    get_version,
    model_name,
    set_alias,
)

EXPERIMENT = "promotions"
ROLLED_BACK = "hallmark.rolled_back"

Predict = Callable[[Store, Version, Sequence[Any]], list[str]]


def _labels_of_sets(targets: Iterable[str]) -> list[str]:
    return sorted({label for content in targets for label in labels_from_json(content)})


@dataclass(frozen=True)
class Compared:
    """How the versions of a kind of task are compared.

    Attributes:
        kind: of task.
        target: the column of what is true.
        classes: of all true and predicted values: every label that occurs, sorted.
        measure: (truth, predicted, classes) to the figures of one version.
        compare: two of them, see `pipeline.evaluation.comparison.compare`.
    """

    kind: str
    target: str
    classes: Callable[[Iterable[str]], list[str]]
    measure: Callable[..., Figures]
    compare: Callable[..., Comparison]


COMPARED = {
    found.kind: found
    for found in (
        Compared("classification", "label", lambda labels: sorted(set(labels)), measure, compare),
        Compared("multi_label_classification", "labels", _labels_of_sets, measure_sets, compare_sets),
    )
}


@dataclass(frozen=True)
class Decision:
    """What was decided, and on what grounds.

    Attributes:
        task: of params.yaml.
        action: "promoted", "kept" (the champion stays), or "rolled back".
        verdict: of the comparison; "first champion", "already champion" or "rollback" where there was none.
        challenger: the version that asked, by its number; with "rolled back", the one that returned.
        champion: the version that was champion before, if there was one.
        reasons: why, in sentences.
        figures: of the challenger on the test set.
        comparison: with the champion on the same test set.
    """

    task: str
    action: str
    verdict: str
    challenger: int
    champion: int | None
    reasons: tuple[str, ...]
    figures: Figures | None = None
    comparison: Comparison | None = None

    def rows(self) -> list[tuple[str, str]]:
        """The decision as a table of two columns."""
        before = "none" if self.champion is None else f"version {self.champion}"
        rows = [("model", model_name(self.task)), ("challenger", f"version {self.challenger}"), ("champion", before)]
        if self.comparison is not None:
            rows += _comparison_rows(self.comparison)
        elif self.figures is not None:
            rows += [("accuracy", f"{self.figures.accuracy:.4f}"), ("macro-F1", f"{self.figures.macro_f1:.4f}")]
        return [*rows, ("verdict", self.verdict), ("decision", f"{self.action}: {'; '.join(self.reasons)}")]

    def lines(self) -> list[str]:
        """The table as it is printed."""
        width = max(len(name) for name, _ in self.rows())
        return [f"{name:<{width}}  {value}" for name, value in self.rows()]


def _comparison_rows(found: Comparison) -> list[tuple[str, str]]:
    change = found.macro_f1_difference
    confidence = f"{100 * (1 - found.alpha):g} %"
    return [
        ("test set", f"{found.examples} texts"),
        ("accuracy", f"{found.challenger.accuracy:.4f}, champion {found.champion.accuracy:.4f}"),
        (
            "McNemar",
            f"p = {found.accuracy_p_value:.2g}; only challenger right {found.only_challenger_right}, "
            f"only champion {found.only_champion_right}",
        ),
        ("macro-F1", f"{found.challenger.macro_f1:.4f}, champion {found.champion.macro_f1:.4f}"),
        ("difference", f"{change.value:+.4f}, {confidence} interval [{change.low:+.4f}, {change.high:+.4f}]"),
    ]


def promote(task: str, *, store: Store | None = None, predict: Predict | None = None) -> Decision:
    """Compare challenger with champion on the current test split, and make it champion if it is better.

    Args:
        task: of params.yaml, which also has the floors, the significance level and the margin.
        store: the registry; the one in use without it.
        predict: asks a version for labels, see `predict_version`; without it the version's own packaged code answers.

    Raises:
        HallmarkError: unknown task, no challenger, no test split, or a registry that is away.
    """
    params = _checked_params(task)
    if (kind := params.tasks[task].kind) not in COMPARED:
        raise HallmarkError(
            f"versions of kind {kind} cannot be compared yet, only classifiers; {allowed(COMPARED)}",
            where=f"params.yaml: tasks.{task}.kind",
            fix=f"set the alias {CHAMPION} of {model_name(task)} by hand: hallmark ui",
        )
    store = store or open_store()
    with _tracker_errors(store), _one_at_a_time():
        challenger, champion = _versions(store, task)
        if champion is not None and champion.number == challenger.number:
            reason = "the newest version is champion already"
            return Decision(task, "kept", "already champion", challenger.number, champion.number, (reason,))
        compared, test = COMPARED[kind], _read_test(task, COMPARED[kind])
        labels, new = test["target"].tolist(), _predictions(store, challenger, test, predict or predict_version)
        if champion is None:
            decision = _decide_first(task, params.promote, compared, challenger, labels, new)
        else:
            old = _predictions(store, champion, test, predict or predict_version)
            decision = _decide(task, params, compared, (challenger, champion), labels, new, old)
        if decision.action == "promoted":
            if champion is not None:
                set_alias(store, champion, PREVIOUS)  # first, so that a crash loses no champion
            set_alias(store, challenger, CHAMPION)
        _record(store, decision, _facts(challenger, champion, test), params.promote)
    return decision


def rollback(task: str, *, store: Store | None = None) -> Decision:
    """Make `previous` champion again, and remember the one that leaves, so that it is not promoted again by itself.

    A second rollback undoes the first.

    Raises:
        HallmarkError: unknown task, no previous champion, or a registry that is away.
    """
    params = _checked_params(task)
    store = store or open_store()
    name = model_name(task)
    with _tracker_errors(store), _one_at_a_time():
        champion, previous = get_version(store, name, CHAMPION), get_version(store, name, PREVIOUS)
        if champion is None or previous is None:
            raise HallmarkError(f"{name} has no champion before the present one", where=store.uri, fix="hallmark ui")
        store.client.set_model_version_tag(name, str(champion.number), ROLLED_BACK, "true")
        store.client.set_model_version_tag(name, str(previous.number), ROLLED_BACK, "false")
        set_alias(store, previous, CHAMPION)
        set_alias(store, champion, PREVIOUS)
        reason = f"version {previous.number} is champion again, version {champion.number} is the previous one"
        decision = Decision(task, "rolled back", "rollback", previous.number, champion.number, (reason,))
        _record(store, decision, _facts(previous, champion, None), params.promote)
    return decision


def _one_at_a_time() -> FileLock:
    home().mkdir(parents=True, exist_ok=True)
    return FileLock(home() / "promotions.lock")


@contextmanager
def _tracker_errors(store: Store) -> Iterator[None]:
    try:
        yield
    except TRACKER_ERRORS as error:
        raise HallmarkError(
            f"the registry does not answer: {str(error).strip().splitlines()[0]}", where=store.uri, fix="hallmark ui"
        ) from error


def _checked_params(task: str) -> Params:
    params = load_params()
    if task not in params.tasks:
        raise HallmarkError(f"there is no task {task!r}; {allowed(params.tasks)}", where="params.yaml: tasks")
    return params


def _versions(store: Store, task: str) -> tuple[Version, Version | None]:
    name = model_name(task)
    challenger = get_version(store, name, CHALLENGER)
    if challenger is None:
        raise HallmarkError(f"{name} has no challenger", where=store.uri, fix=f"hallmark register {task}")
    return challenger, get_version(store, name, CHAMPION)


def _read_test(task: str, compared: Compared) -> pd.DataFrame:
    """The test rows, with what a version is asked (`request`) and what is true (`target`)."""
    rows = read_table(clean_task(task))
    test = rows[rows["split"] == "test"].reset_index(drop=True)
    if test.empty:
        raise HallmarkError("there are no test rows to compare on", where=str(clean_task(task)), fix="dvc repro")
    served = find_served(compared.kind, "pair" in test)
    return test.assign(request=[served.request(row) for row in records(test)], target=test[compared.target])


def _decide_first(
    task: str, rules: Promote, compared: Compared, challenger: Version, labels: Sequence[str], new: Sequence[str]
) -> Decision:
    figures = compared.measure(labels, new, compared.classes([*labels, *new]))
    missed = floors_missed(figures, rules)
    reasons = missed or ["there is no champion yet, and the floors are reached"]
    action = "kept" if missed else "promoted"
    return Decision(task, action, "first champion", challenger.number, None, tuple(reasons), figures)


def _decide(
    task: str,
    params: Params,
    compared: Compared,
    versions: tuple[Version, Version],
    labels: Sequence[str],
    new: Sequence[str],
    old: Sequence[str],
) -> Decision:
    challenger, champion = versions
    rules, classes = params.promote, compared.classes([*labels, *new, *old])
    found = compared.compare(
        labels, old, new, classes=classes, alpha=rules.alpha, margin=rules.margin, seed=params.seed
    )
    objections = _objections(found, rules, challenger)
    reasons = objections or [f"the challenger is {found.verdict}"]
    action = "kept" if objections else "promoted"
    numbers = challenger.number, champion.number
    return Decision(task, action, found.verdict, *numbers, tuple(reasons), found.challenger, found)


def _objections(found: Comparison, rules: Promote, challenger: Version) -> list[str]:
    accepted = ("better", "not worse") if rules.accept_not_worse else ("better",)
    reasons = floors_missed(found.challenger, rules)
    if found.verdict not in accepted:
        reasons.append(f"the challenger is {found.verdict}; promote accepts {' and '.join(accepted)}")
    if challenger.tags.get(ROLLED_BACK) == "true":
        reasons.append(f"version {challenger.number} was rolled back before; to return to it, roll back again")
    return reasons


def floors_missed(figures: Figures, rules: Promote) -> list[str]:
    """A sentence for each floor of params.yaml that the challenger is below."""
    floors = {"accuracy": (figures.accuracy, rules.min_accuracy), "macro-F1": (figures.macro_f1, rules.min_macro_f1)}
    return [
        f"{name} {value:.4f} is below the floor {floor:g}" for name, (value, floor) in floors.items() if value < floor
    ]


def _digest(test: pd.DataFrame) -> str:
    """The identity of a test set: what is asked and what is true, in their order."""
    return sha256_json([test["id"].astype(str).tolist(), test["request"].tolist(), test["target"].tolist()])


def _predictions(store: Store, version: Version, test: pd.DataFrame, predict: Predict) -> list[str]:
    """What a version says of the test set; asked once, and again only if one of the two changed."""
    known = home() / "promotions" / f"{sha256_json([version.package_hash, _digest(test)])}.json"
    if version.package_hash and known.exists():
        return read_json(known)["predicted"]
    predicted = predict(store, version, test["request"].tolist())
    if len(predicted) != len(test):
        raise HallmarkError(f"{len(predicted)} answers to {len(test)} texts", where=version.uri)
    if version.package_hash:
        write_json(known, {"model": version.uri, "predicted": predicted})
    return predicted


ASK = """
import json, sys
import mlflow
model = mlflow.pyfunc.load_model(sys.argv[1])
with open(sys.argv[2]) as file:
    answers = model.predict(json.load(file))
answers = [answer if isinstance(answer, dict) else answer.model_dump() for answer in answers]
with open(sys.argv[3], "w") as file:
    json.dump(answers, file)
"""


def predict_version(store: Store, version: Version, requests: Sequence[Any]) -> list[str]:
    """Ask a registered version, in a fresh process: it answers with the code that it was packaged with.

    Returns:
        The label of each request; the labels as JSON, where there may be any number of them.

    Raises:
        HallmarkError: the version cannot be loaded or does not answer; with the process's last lines.
    """
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "MLFLOW_TRACKING_URI": store.uri,
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }
    with tempfile.TemporaryDirectory(prefix="hallmark-") as folder:
        asked, answered = Path(folder) / "texts.json", Path(folder) / "labels.json"
        write_json(asked, list(requests))
        command = [sys.executable, "-c", ASK, version.uri, str(asked), str(answered)]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            last = "\n".join(done.stderr.strip().splitlines()[-3:])
            raise HallmarkError(f"this version does not answer\n{last}", where=version.uri, fix="hallmark doctor")
        return [_said(answer) for answer in read_json(answered)]


def _said(answer: Mapping[str, Any]) -> str:
    return answer["label"] if "label" in answer else labels_to_json(answer["labels"])


def _facts(challenger: Version, champion: Version | None, test: pd.DataFrame | None) -> dict[str, str]:
    """The tags of a decision's run: both versions, the test set, the commit."""
    state = git_state()
    facts = {
        "hallmark.challenger": str(challenger.number),
        "hallmark.challenger_package": challenger.package_hash,
        "hallmark.git_dirty": str(state["git_dirty"]).lower(),
    }
    if champion is not None:
        facts |= {"hallmark.champion": str(champion.number), "hallmark.champion_package": champion.package_hash}
    if test is not None:
        facts["hallmark.test_set"] = _digest(test)
    if commit := state["git_commit"]:
        facts["mlflow.source.git.commit"] = commit
    return facts


def _record(store: Store, decision: Decision, facts: Mapping[str, str], rules: Promote) -> None:
    """Write the decision down as a closed run of the experiment `promotions`."""
    log = open_store(EXPERIMENT)
    now = time.time()
    name = f"{decision.task} version {decision.challenger}: {decision.action}"
    tags = {
        "mlflow.runName": name,
        "mlflow.note.content": "\n".join(f"- {what}: {value}" for what, value in decision.rows()),
        "hallmark.task": decision.task,
        "hallmark.model": model_name(decision.task),
        "hallmark.action": decision.action,
        "hallmark.verdict": decision.verdict,
        **facts,
    }
    run = log.client.create_run(log.experiment_id, int(now * 1000), tags, name)
    metrics = [mlflow_runs.point(metric, value, now) for metric, value in _figures(decision).items()]
    mlflow_runs.log(log, run.info.run_id, metrics, rules.model_dump())
    if decision.comparison is not None:
        log.client.log_dict(run.info.run_id, decision.comparison.to_dict(), "comparison.json")
    mlflow_runs.close(log, run.info.run_id, "finished", now)


def _figures(decision: Decision) -> dict[str, float]:
    """The figures of a decision by the names that MLflow shows."""
    found, figures = decision.comparison, decision.figures
    if figures is None:
        return {}
    values = {"challenger.accuracy": figures.accuracy, "challenger.macro_f1": figures.macro_f1}
    if found is None:
        return values
    difference = found.macro_f1_difference
    return values | {
        "champion.accuracy": found.champion.accuracy,
        "champion.macro_f1": found.champion.macro_f1,
        "accuracy_difference": found.accuracy_difference,
        "accuracy_p_value": found.accuracy_p_value,
        "macro_f1_difference": difference.value,
        "macro_f1_difference.low": difference.low,
        "macro_f1_difference.high": difference.high,
    }
