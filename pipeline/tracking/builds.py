"""Builds: what one `dvc repro`, or one flow, made of every stage. Plain files, written without any tracking server.

`.hallmark/builds/ID.json` is begun by the first stage of a build and completed when the build has ended:

    {"build", "build_pid", "host", "root", "git_commit", "git_dirty", "begun", "seen",
     "ended", "lost", "lock_hash", "params": all of params.yaml,
     "stages": {name: {"key", "status", "params", "deps": {path: md5}, "metrics": {name: float}}},
     "sent": [identities of the stores that have it]}

A stage's status is `ran`, `failed`, `interrupted` or `killed` if the build started it; else `unchanged` if the build
before it had the same key, or `restored` if DVC brought the outputs from its cache. A stage that the build did
not reach is not in it.
"""

import time
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from dvc.exceptions import DvcException

from pipeline.common.files import read_json, write_json
from pipeline.common.layout import home, metrics_file, stage_home
from pipeline.tracking.build import is_running
from pipeline.tracking.runs import StageRun, runs_of_build
from pipeline.tracking.stage_key import StageState, lock_hash, stage_key, survey_stages

Build = dict[str, Any]
CACHED = ("unchanged", "restored")
GOOD = ("ran", *CACHED)
INTERVAL = (".value", ".low", ".high")
BASELINES = "baselines."


def _path(build: str) -> Path:
    return home() / "builds" / f"{build}.json"


def begin_build(facts: Mapping[str, Any]) -> Build:
    """The record of the build that `describe_build` names: made by its first stage, opened again by a later one."""
    path = _path(facts["build"])
    record = read_json(path) if path.exists() else {"begun": time.time(), "sent": []}
    opened = {name: value for name, value in {**record, **facts}.items() if name != "ended"}
    if opened != record:
        opened["seen"] = time.time()
        write_json(path, opened)
    return opened


def read_builds() -> list[Build]:
    """Every build of this machine's state, oldest first."""
    files = [(path, path.stat()) for path in (home() / "builds").glob("*.json")]
    records = [_parse(path, state.st_mtime_ns, state.st_size) for path, state in files]
    return sorted(records, key=lambda record: record["begun"])


@lru_cache(maxsize=4096)
def _parse(path: Path, _changed: int, _size: int) -> Build:
    return read_json(path)


def mark_sent(record: Build, store_identity: str) -> None:
    path = _path(record["build"])
    now = read_json(path)  # a stage may have opened the build again
    write_json(path, {**now, "sent": [*now["sent"], store_identity]})


def is_over(record: Build) -> bool:
    """Whether the process that the build was is gone, and the stage that it may have left behind, too.

    A stage whose dvc was killed saves its checkpoint before it ends.
    """
    if is_running(record["build_pid"], record["seen"], record["host"]):
        return False
    return not any(run.status == "running" for run in runs_of_build(record["build"], record["begun"]).values())


def complete_build(record: Build) -> Build:
    """Write down what became of every stage. Called again, it changes nothing unless something ran since."""
    done: dict[str, Any] = {"lock_hash": None, "params": {}, "lost": None}
    rows = {name: _ran(run) for name, run in runs_of_build(record["build"], record["begun"]).items()}
    root = Path(record["root"])
    if _is_newest(record):  # the checkout shows nothing of older builds any more
        try:
            done |= {"lock_hash": lock_hash(root), "params": _params(root)}
            rows = _with_cached(rows, record, survey_stages(root))
        except (DvcException, OSError, yaml.YAMLError) as error:
            done["lost"] = f"the checkout could not be read when the build had ended: {error}"
    done["stages"] = {name: {**row, "metrics": _metrics(root, name, row)} for name, row in rows.items()}
    known = {name: record.get(name) for name in done}
    completed = {**record, **done, "ended": _end(record, rows), "sent": record["sent"] if done == known else []}
    if completed != record:
        write_json(_path(record["build"]), completed)
    return completed


def _is_newest(record: Build) -> bool:
    return not any(
        other["root"] == record["root"] and other["begun"] > record["begun"] and other["build"] != record["build"]
        for other in read_builds()
    )


def _with_cached(rows: Mapping[str, Build], record: Build, states: list[StageState]) -> dict[str, Build]:
    """All rows in the graph's order, those of the stages that DVC left alone or restored among them."""
    earlier = [other for other in read_builds() if "ended" in other and other["begun"] < record["begun"]]
    before = earlier[-1]["stages"] if earlier else {}
    every: dict[str, Build] = {}
    for state in states:
        if state.name in rows:
            every[state.name] = rows[state.name]
        elif state.current and state.description is not None:
            row = _row(state.description, "restored")
            known = before.get(state.name)
            if known and known["key"] == row["key"] and known["status"] in GOOD:
                row["status"] = "unchanged"
            every[state.name] = row
    return every


def _ran(run: StageRun) -> Build:
    row = _row(run.start["description"], "ran" if run.status == "finished" else run.status)
    ended = run.end["time"] if run.end is not None else None
    return {**row, "uid": run.uid, "ended": ended}


def _row(description: Mapping[str, Any], status: str) -> Build:
    key = stage_key(description)
    return {"key": key, "status": status, "params": description["params"], "deps": description["deps"]}


def _end(record: Build, rows: Mapping[str, Build]) -> float:
    """When the last stage of the build ended; the same whenever it is asked. Now, if none ran."""
    ends = [row["ended"] for row in rows.values() if row.get("ended")]
    return max(ends) if ends else record.get("ended", time.time())


def _metrics(root: Path, stage: str, row: Build) -> dict[str, float]:
    path = root / metrics_file(stage)
    return flatten_numbers(read_json(path)) if row["status"] in GOOD and path.exists() else {}


def _params(root: Path) -> dict[str, Any]:
    path = root / "params.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {} if path.exists() else {}


def flatten_numbers(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of nested metrics by dotted name: {"f1": {"value": 1}} -> {"f1.value": 1.0}."""
    flat: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten_numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float):
            flat[f"{prefix}{name}"] = float(value)
    return flat


def origin_timing(key: str) -> dict[str, float]:
    """Seconds and peak memory of the run that made a stage's outputs, if it was on this machine."""
    path = stage_home(key) / "timing.json"
    return flatten_numbers(read_json(path)) if path.exists() else {}


def headline(stages: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a whole build by one name each, to compare builds by.

    `pretrain`'s bits_per_byte is "pretrain.bits_per_byte"; what `evaluate@library` measured is
    "tasks.library.macro_f1" (with .low and .high), as `hallmark summary --json` names it. What lies deeper than
    "train.tokens", such as one figure per class, is for the stage's own row; only the baselines are kept whole.
    """
    figures: dict[str, float] = {}
    for stage, row in stages.items():
        name, _, task = stage.partition("@")
        prefix = f"tasks.{task}" if task and name == "evaluate" else stage.replace("@", ".")
        for metric, value in row["metrics"].items():
            if metric.startswith(BASELINES) or _bare(metric).count(".") <= 1:
                figures[f"{prefix}.{figure_name(metric)}"] = value
    return figures


def _bare(metric: str) -> str:
    """A figure's name without the part of its interval."""
    return next((metric.removesuffix(part) for part in INTERVAL if metric.endswith(part)), metric)


def figure_name(metric: str) -> str:
    """The value of a figure with an interval goes by the figure's own name: accuracy, accuracy.low, accuracy.high."""
    return metric.removesuffix(".value")


def build_status(record: Build) -> str:
    """A stage run's word for the whole build: finished, failed, interrupted or killed."""
    found = {row["status"] for row in record["stages"].values()}
    worst = [status for status in ("failed", "interrupted", "killed", "running") if status in found]
    if worst:
        return "killed" if worst[0] == "running" else worst[0]
    return "killed" if record["lost"] else "finished"


def describe_status(stages: Mapping[str, Any]) -> str:
    """How many stages of each status: "3 ran, 8 unchanged"."""
    found = Counter(row["status"] for row in stages.values())
    order = (*GOOD, "failed", "interrupted", "killed", "running")
    return ", ".join(f"{found[status]} {status}" for status in order if found[status])
