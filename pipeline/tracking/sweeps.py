"""Sweeps in MLflow: a run per sweep in the experiment `sweeps`, below it one per arm that points to the arm's build."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.common.errors import HallmarkError
from pipeline.common.files import sha256_json
from pipeline.evaluation.ranked_sweep import arm_label
from pipeline.tracking import mlflow_runs
from pipeline.tracking.build import git_state
from pipeline.tracking.mlflow_runs import commit_tags, ensure_run, find_run, point
from pipeline.tracking.mlflow_store import TRACKER_ERRORS, Store, open_store

EXPERIMENT = "sweeps"


def send_sweep(sweep: Mapping[str, Any], arms: Sequence[Mapping[str, Any]], files: Sequence[Path], begun: float) -> str:
    """Write a sweep down; sent again, it brings the same runs up to date.

    Args:
        sweep: its name, settings, seeds, targets and metrics.
        arms: see `pipeline.evaluation.ranked_sweep`.
        files: kept with the sweep's own run: the ranked table as HTML and Markdown.
        begun: seconds since the epoch.

    Returns:
        A sentence: where it is, or the warning that the tracker is away.
    """
    try:
        store, builds = open_store(EXPERIMENT), open_store()
        return _send(store, builds, sweep, arms, files, begun)
    except (HallmarkError, *TRACKER_ERRORS) as error:
        return f"warning: the sweep is not in MLflow; start it again later, and nothing is built anew: {error}"


def _send(
    store: Store,
    builds: Store,
    sweep: Mapping[str, Any],
    arms: Sequence[Mapping[str, Any]],
    files: Sequence[Path],
    begun: float,
) -> str:
    identity = f"sweep {sweep['name']} {sha256_json(dict(sweep))[:16]}"
    parent = ensure_run(store, identity, f"sweep {sweep['name']}", begun, commit_tags(git_state()))
    now = time.time()
    for arm in arms:
        _send_arm(store, builds, parent, identity, arm, begun, now)
    store.client.log_dict(parent, dict(sweep), "sweep.json")
    for file in files:
        store.client.log_artifact(parent, str(file))
    failed = any(arm["error"] for arm in arms)
    mlflow_runs.close(store, parent, "failed" if failed else "finished", now)
    return f"sweep {sweep['name']}: {store.uri} has it, experiment {EXPERIMENT}, run {parent}"


def _send_arm(
    store: Store, builds: Store, parent: str, sweep: str, arm: Mapping[str, Any], begun: float, now: float
) -> None:
    uid = f"{sweep} {sha256_json([arm['settings'], arm['seed']])[:16]}"
    run = ensure_run(store, uid, arm_label(arm), begun, {"mlflow.parentRunId": parent})
    tags = {f"hallmark.stage_key.{stage.replace('@', '.')}": key for stage, key in arm["stages"].items()}
    if arm["build"]:
        tags["hallmark.build"] = arm["build"]
        found = find_run(builds, f"build {arm['build']}")
        if found is not None:
            tags["hallmark.build_run"] = found.info.run_id
    if arm["error"]:
        tags["mlflow.note.content"] = arm["error"]
    figures = [point(name, value, now) for name, value in arm["figures"].items()]
    mlflow_runs.log(store, run, figures, {**arm["settings"], "seed": arm["seed"]}, tags)
    mlflow_runs.close(store, run, "failed" if arm["error"] else "finished", now)
