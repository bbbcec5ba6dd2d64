"""Cross-validations in MLflow: a run for each in the experiment `cross-validation`, below it one per fold."""

import time
from collections.abc import Mapping
from typing import Any

from pipeline.common.errors import HallmarkError
from pipeline.common.files import sha256_json
from pipeline.common.params import Params
from pipeline.evaluation.cross_validation import CrossValidation
from pipeline.tracking import mlflow_runs
from pipeline.tracking.build import git_state
from pipeline.tracking.mlflow_runs import commit_tags, ensure_run, find_run, flatten_params, point
from pipeline.tracking.mlflow_store import TRACKER_ERRORS, Store, open_store
from pipeline.tracking.stage_key import decisive, locked_stages, stage_key

EXPERIMENT = "cross-validation"
READ_FROM = ("validate", "pretrain")  # the stages whose outputs are read


def send_cross_validation(found: CrossValidation, params: Params, begun: float) -> str:
    """Write a cross-validation down: mean and deviation of each figure, the folds as runs of their own, and its origin.

    The same figures of the same origin are the same run, however often they are sent.

    Args:
        found: the figures.
        params: that they were measured with.
        begun: seconds since the epoch.

    Returns:
        A sentence: where it is, or the warning that the tracker is away.
    """
    try:
        store = open_store(EXPERIMENT)
        run = _send(store, found, _settings(found, params), _origin(found.task), begun)
    except (HallmarkError, *TRACKER_ERRORS) as error:
        return f"warning: the cross-validation is not in MLflow; type it again later: {error}"
    return f"{store.uri} has it, experiment {EXPERIMENT}, run {run}"


def _settings(found: CrossValidation, params: Params) -> dict[str, Any]:
    task, finetune = params.tasks[found.task], params.finetune
    nested = {"finetune": finetune.model_dump(by_alias=True), "task": task.model_dump(by_alias=True)}
    return {"folds": len(found.folds), "seed": params.seed, **flatten_params(nested)}


def _origin(task: str) -> dict[str, str]:
    """As tags: the commit, and the keys of the stages that left the rows and the model."""
    locked = locked_stages()
    keys = {name: stage_key(decisive(name, locked[name])) for name in READ_FROM if name in locked}
    return {
        **commit_tags(git_state()),
        "hallmark.task": task,
        **{f"hallmark.stage_key.{name}": key for name, key in keys.items()},
    }


def _send(
    store: Store, found: CrossValidation, settings: Mapping[str, Any], origin: Mapping[str, str], begun: float
) -> str:
    uid = f"{EXPERIMENT} {found.task} {sha256_json([found.to_dict(), dict(settings), dict(origin)])[:16]}"
    known = find_run(store, uid)
    if known is not None and known.info.status == "FINISHED":
        return known.info.run_id
    now = time.time()
    parent = ensure_run(store, uid, f"{found.task}, {len(found.folds)} folds", begun, origin)
    for number, (figures, rows) in enumerate(zip(found.folds, found.rows, strict=True), 1):
        tags = {**origin, "mlflow.parentRunId": parent}
        run = ensure_run(store, f"{uid} {number}", f"{found.task}, fold {number}", begun, tags)
        points = [point(name, value, now) for name, value in {**figures, "rows": rows}.items()]
        mlflow_runs.log(store, run, points, {**settings, "fold": number})
        mlflow_runs.close(store, run, "finished", now)
    means = {f"{name}.mean": value for name, value in found.mean.items()}
    deviations = {f"{name}.deviation": value for name, value in found.deviation.items()}
    mlflow_runs.log(store, parent, [point(*each, now) for each in (means | deviations).items()], settings)
    store.client.log_dict(parent, found.to_dict(), "cross-validation.json")
    mlflow_runs.close(store, parent, "finished", now)  # last: what is finished is whole
    return parent
