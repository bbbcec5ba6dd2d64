"""Runs in MLflow: found again by a tag of our own, made once, filled in batches, closed."""

import getpass
import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run, RunTag

from pipeline.common.files import canonical_json
from pipeline.common.layout import home
from pipeline.tracking.mlflow_store import TRACKER_ERRORS, Store
from pipeline.tracking.runs import StageRun

UID = "hallmark.run"  # the tag by which a run is found again
METRICS_PER_CALL, PARAMS_PER_CALL = 1000, 100  # MLflow's own limits
VALUE_LENGTH, TAG_LENGTH = 6000, 5000
STATUS = {"running": "RUNNING", "finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED", "killed": "KILLED"}


def find_run(store: Store, uid: str) -> Run | None:
    found = store.client.search_runs([store.experiment_id], f"tags.`{UID}` = '{uid}'", max_results=1)
    return found[0] if found else None


def ensure_run(store: Store, uid: str, name: str, begun: float, tags: Mapping[str, str]) -> str:
    """The id of the run with this uid, made if the store lacks it. Several processes may ask at once.

    Args:
        store: where.
        uid: the value of the tag `hallmark.run`.
        name: the name that the UI shows.
        begun: seconds since the epoch.
        tags: of a new run; one that is there keeps its own.
    """
    with FileLock(home() / "runs.lock"):
        found = find_run(store, uid)
        if found is None:
            every_tag = {"mlflow.runName": name, "mlflow.user": _user(), UID: uid, **tags}
            return store.client.create_run(store.experiment_id, int(begun * 1000), every_tag, name).info.run_id
    return found.info.run_id


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        return "unknown"


def commit_tags(facts: Mapping[str, Any]) -> dict[str, str]:
    """The commit, and whether what decides a build differs from it; see `pipeline.tracking.build.git_state`."""
    tags = {"hallmark.git_dirty": str(bool(facts.get("git_dirty"))).lower()}
    if commit := facts.get("git_commit"):
        tags |= {"hallmark.git_commit": commit, "mlflow.source.git.commit": commit}
    return tags


def build_tags(facts: Mapping[str, Any]) -> dict[str, str]:
    """The tags that a build and its stages share, from a journal's start event or a build's record."""
    source = {"mlflow.source.name": "dvc.yaml", "mlflow.source.type": "LOCAL"}
    return {"hallmark.build": facts["build"], **commit_tags(facts), **source}


def ensure_build_run(store: Store, facts: Mapping[str, Any], begun: float) -> str:
    """The parent run of a build; `facts` has "build", "git_commit" and "git_dirty"."""
    name = f"build {facts['build']}"
    return ensure_run(store, f"build {facts['build']}", name, begun, build_tags(facts))


def ensure_stage_run(store: Store, run: StageRun, reopen: bool = False) -> str:
    """The run of a stage below its build's.

    Args:
        store: where.
        run: as the journal tells it.
        reopen: the stage was interrupted and goes on. What an interrupted build began belongs to the build that
            goes on with it.
    """
    parent = ensure_build_run(store, run.start, run.start["time"])
    tags = _stage_tags(run, parent)
    run_id = ensure_run(store, run.uid, run.start["stage"], run.begun, tags)
    if reopen:
        log(store, run_id, tags=tags)
        store.client.update_run(run_id, status="RUNNING")
    if run.is_running():  # not when an old journal is sent late
        store.client.update_run(parent, status="RUNNING")
    return run_id


def _stage_tags(run: StageRun, parent: str) -> dict[str, str]:
    return {
        **build_tags(run.start),
        "mlflow.parentRunId": parent,
        "mlflow.source.name": str(run.start["description"]["cmd"]),
        "hallmark.stage": run.start["stage"],
        "hallmark.stage_key": run.start["key"],
        "hallmark.status": "running",
    }


def log(
    store: Store,
    run_id: str,
    metrics: Iterable[Metric] = (),
    params: Mapping[str, Any] | None = None,
    tags: Mapping[str, Any] | None = None,
) -> int:
    """Send all of it in as few calls as MLflow allows; returns the number of points.

    Sending a point again is harmless: name, step, time and value are its identity in the store. A parameter that
    the run has with another value keeps the first one, since MLflow's parameters never change.
    """
    count = 0
    for chunk in _chunks(list(metrics), METRICS_PER_CALL):
        store.client.log_batch(run_id, metrics=chunk)
        count += len(chunk)
    if params:
        known = store.client.get_run(run_id).data.params
        new = [Param(clean_name(name), as_text(value)[:VALUE_LENGTH]) for name, value in params.items()]
        for chunk in _chunks([param for param in new if param.key not in known], PARAMS_PER_CALL):
            store.client.log_batch(run_id, params=chunk)
    for chunk in _chunks(
        [RunTag(key, str(value)[:TAG_LENGTH]) for key, value in (tags or {}).items()], PARAMS_PER_CALL
    ):
        store.client.log_batch(run_id, tags=chunk)
    return count


def _chunks(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def point(name: str, value: float, seconds: float, step: int = 0) -> Metric:
    return Metric(clean_name(name), float(value), int(seconds * 1000), step)


def clean_name(name: str) -> str:
    """A name that MLflow takes: letters, digits and `_ - . / :` or space, and no odd path."""
    name = re.sub(r"[^\w./\- :]", "_", name)[:250]
    if posixpath.normpath(name) != name or name.startswith(("/", "..")):
        name = name.replace("/", "_").strip(".") or "_"
    return name


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def flatten_params(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted names: {"model": {"depth": 4}} -> {"model.depth": 4}. Lists stay whole."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten_params(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def log_inputs(store: Store, run_id: str, deps: Mapping[str, str | None]) -> None:
    """Name the data that a stage read as the run's data sets, with their md5 in DVC (`.dir` for a folder's)."""
    inputs = [
        DatasetInput(
            Dataset(name=path, digest=md5, source_type="local", source=canonical_json({"uri": path})),
            [InputTag("mlflow.data.context", "input")],
        )
        for path, md5 in deps.items()
        if md5 and path != "pipeline" and not path.startswith("pipeline/")  # code is named by the commit
    ]
    if inputs:
        store.client.log_inputs(run_id, inputs)


@dataclass
class Uploader:
    """Copies files and folders below `root` into a run, and remembers what could not be copied."""

    store: Store
    root: Path
    warnings: list[str] = field(default_factory=list)

    def upload(self, run_id: str, path: Path | str) -> None:
        """Keep a file or folder under its relative path, or under its name if it lies elsewhere.

        Raises what MLflow raises only while the store itself does not answer: an artifact that is gone or refused
        must not hold up the metrics behind it.
        """
        name = Path(path)
        path = self.root / name
        if name.is_absolute() or ".." in name.parts:
            name = Path(path.name)
        if not path.exists():
            self.warnings.append(f"{path} was to be kept with run {run_id} and is gone")
            return
        try:
            if path.is_dir():
                self.store.client.log_artifacts(run_id, str(path), name.as_posix())
            else:
                folder = name.parent.as_posix()
                self.store.client.log_artifact(run_id, str(path), None if folder == "." else folder)
        except TRACKER_ERRORS as error:
            self.store.client.get_run(run_id)  # raises if it is the store that is away
            self.warnings.append(f"{path} could not be kept with run {run_id}: {error}")


def close(store: Store, run_id: str, status: str, ended: float) -> None:
    """End a run. `status` is a stage run's: finished, failed, interrupted or killed."""
    store.client.set_terminated(run_id, STATUS[status], int(ended * 1000))
