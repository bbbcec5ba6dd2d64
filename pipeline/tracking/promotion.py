"""Promotion: may the challenger become champion? Both answer the same test set; the decision is recorded.

    champion    the version in use      previous    the one in use before; `rollback` swaps the two
    challenger  the newest build        first champion: there is nothing to compare with, the floors alone decide

Every decision is a run of the MLflow experiment `promotions`, with both versions, the figures and the verdict.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from filelock import FileLock

from pipeline.common.errors import HallmarkError, allowed
from pipeline.common.figures import NAMES
from pipeline.common.layout import home
from pipeline.common.params import Params, Promote, load_params
from pipeline.evaluation.comparison import FEWEST, Comparison, Tally, compare, measure
from pipeline.tracking import mlflow_runs
from pipeline.tracking.answers import Exam, Predict, known_answers, predict_version, read_exam
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
        figures: of the challenger on the test set, by name, the leading one first.
        comparison: with the champion on the same test set.
    """

    task: str
    action: str
    verdict: str
    challenger: int
    champion: int | None
    reasons: tuple[str, ...]
    figures: dict[str, float] | None = None
    comparison: Comparison | None = None

    def rows(self) -> list[tuple[str, str]]:
        """The decision as a table of two columns."""
        before = "none" if self.champion is None else f"version {self.champion}"
        rows = [("model", model_name(self.task)), ("challenger", f"version {self.challenger}"), ("champion", before)]
        if self.comparison is not None:
            rows += _comparison_rows(self.comparison)
        elif self.figures is not None:
            rows += [(NAMES[name], f"{value:.4f}") for name, value in self.figures.items()]
        return [*rows, ("verdict", self.verdict), ("decision", f"{self.action}: {'; '.join(self.reasons)}")]

    def lines(self) -> list[str]:
        """The table as it is printed."""
        width = max(len(name) for name, _ in self.rows())
        return [f"{name:<{width}}  {value}" for name, value in self.rows()]


def _comparison_rows(found: Comparison) -> list[tuple[str, str]]:
    change, only = found.difference, found.discordant
    confidence = f"{100 * (1 - found.alpha):g} %"
    lead, *others = [
        (NAMES[name], f"{value:.4f}, champion {found.champion[name]:.4f}") for name, value in found.challenger.items()
    ]
    rows = [("test set", f"{found.examples} texts"), *others]
    if only is not None:
        counts = f"only challenger right {only.only_challenger}, only champion {only.only_champion}"
        rows.append(("McNemar", f"p = {only.p_value:.2g}; {counts}"))
    difference = f"{change.value:+.4f}, {confidence} interval [{change.low:+.4f}, {change.high:+.4f}]"
    return [*rows, lead, ("difference", difference)]


def promote(task: str, *, store: Store | None = None, predict: Predict | None = None) -> Decision:
    """Compare challenger with champion on the current test split, and make it champion if it is better.

    Args:
        task: of params.yaml, which also has the floors, the significance level and the margin.
        store: the registry; the one in use without it.
        predict: asks a version, see `predict_version`; without it the version's own packaged code answers.

    Raises:
        HallmarkError: unknown task, no challenger, no test split, or a registry that is away.
    """
    params = _checked_params(task)
    store = store or open_store()
    with _tracker_errors(store), _one_at_a_time():
        challenger, champion = _versions(store, task)
        if champion is not None and champion.number == challenger.number:
            reason = "the newest version is champion already"
            return Decision(task, "kept", "already champion", challenger.number, champion.number, (reason,))
        exam = read_exam(task, params)
        versions = [version for version in (champion, challenger) if version is not None]
        said = [known_answers(store, version, exam, predict or predict_version) for version in versions]
        decision = _decide(task, params, challenger, champion, exam.count(*said))
        if decision.action == "promoted":
            if champion is not None:
                set_alias(store, champion, PREVIOUS)  # first, so that a crash loses no champion
            set_alias(store, challenger, CHAMPION)
        _record(store, decision, _facts(challenger, champion, exam), params.promote)
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


def _decide(task: str, params: Params, challenger: Version, champion: Version | None, tally: Tally) -> Decision:
    rules = params.promote
    if champion is None:
        [figures] = measure(tally)
        missed = floors_missed(figures, rules)
        reasons = missed or ["there is no champion yet, and the floors are reached"]
        action = "kept" if missed else "promoted"
        return Decision(task, action, "first champion", challenger.number, None, tuple(reasons), figures)
    found = compare(tally, alpha=rules.alpha, margin=rules.margin, seed=params.seed)
    objections = _objections(found, rules, challenger)
    reasons = objections or [f"the challenger is {found.verdict}"]
    action = "kept" if objections else "promoted"
    numbers = challenger.number, champion.number
    return Decision(task, action, found.verdict, *numbers, tuple(reasons), found.challenger, found)


def _objections(found: Comparison, rules: Promote, challenger: Version) -> list[str]:
    accepted = ("better", "not worse") if rules.accept_not_worse else ("better",)
    reasons = floors_missed(found.challenger, rules)
    if found.examples < FEWEST:
        reasons.append(f"{found.examples} test texts are too few to compare on; {FEWEST} are the fewest")
    elif found.verdict not in accepted:
        reasons.append(f"the challenger is {found.verdict}; promote accepts {' and '.join(accepted)}")
    if challenger.tags.get(ROLLED_BACK) == "true":
        reasons.append(f"version {challenger.number} was rolled back before; to return to it, roll back again")
    return reasons


def floors_missed(figures: Mapping[str, float], rules: Promote) -> list[str]:
    """A sentence for each floor of params.yaml that the challenger is below, of the figures that it has."""
    floors = [("accuracy", rules.min_accuracy), ("macro_f1", rules.min_macro_f1), *rules.floors.items()]
    return [
        f"{NAMES[name]} {figures[name]:.4f} is below the floor {floor:g}"
        for name, floor in floors
        if name in figures and figures[name] < floor
    ]


def _facts(challenger: Version, champion: Version | None, exam: Exam | None) -> dict[str, str]:
    """The tags of a decision's run: both versions, the test set, the commit."""
    state = git_state()
    facts = {
        "hallmark.challenger": str(challenger.number),
        "hallmark.challenger_package": challenger.package_hash,
        "hallmark.git_dirty": str(state["git_dirty"]).lower(),
    }
    if champion is not None:
        facts |= {"hallmark.champion": str(champion.number), "hallmark.champion_package": champion.package_hash}
    if exam is not None:
        facts["hallmark.test_set"] = exam.digest
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
    mlflow_runs.log(log, run.info.run_id, metrics, mlflow_runs.flatten_params(rules.model_dump()))
    if decision.comparison is not None:
        log.client.log_dict(run.info.run_id, decision.comparison.to_dict(), "comparison.json")
    mlflow_runs.close(log, run.info.run_id, "finished", now)


def _figures(decision: Decision) -> dict[str, float]:
    """The figures of a decision by the names that MLflow shows."""
    found = decision.comparison
    values = {f"challenger.{name}": value for name, value in (decision.figures or {}).items()}
    if found is None:
        return values
    values |= {f"champion.{name}": value for name, value in found.champion.items()}
    if found.discordant is not None:
        values["accuracy_difference"] = found.challenger["accuracy"] - found.champion["accuracy"]
        values["accuracy_p_value"] = found.discordant.p_value
    change, name = found.difference, f"{found.leading}_difference"
    return values | {name: change.value, f"{name}.low": change.low, f"{name}.high": change.high}
