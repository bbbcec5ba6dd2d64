"""Sends builds to MLflow: what the journals do not tell, so that no row of a comparison has holes.

The stages that ran are in MLflow from their journals. A build adds the stages that DVC took from its cache, as runs
closed at once that point to the run that made their outputs, and on its own run the headline figures and all params.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.common.layout import PLOTS, REPORT
from pipeline.tracking import mlflow_runs
from pipeline.tracking.builds import (
    CACHED,
    Build,
    build_status,
    describe_status,
    figure_name,
    headline,
    mark_sent,
    origin_timing,
)
from pipeline.tracking.mlflow_runs import Uploader, ensure_build_run, ensure_run, find_run, flatten_params, point
from pipeline.tracking.mlflow_store import Store
from pipeline.tracking.stage_key import lock_hash


def send_build(store: Store, record: Build) -> list[str]:
    """Complete a build's rows in this store; again only if it was completed anew. Returns warnings.

    Raises MLflow's errors when the store is away.
    """
    if store.identity in record["sent"]:
        return []
    uploader = Uploader(store, Path(record["root"]))
    parent = ensure_build_run(store, record, record["begun"])
    for stage, row in record["stages"].items():
        if row["status"] in CACHED:
            _send_cached(store, record, parent, stage, row)
        else:
            _tag_ran(store, record, row)
    now = record["ended"]
    figures = [point(name, value, now) for name, value in headline(record["stages"]).items()]
    mlflow_runs.log(
        store,
        parent,
        metrics=[*figures, point("seconds", now - record["begun"], now)],
        params=flatten_params(record["params"]),
        tags=_build_tags(record),
    )
    if build_status(record) == "finished" and lock_hash(record["root"]) == record["lock_hash"]:
        for folder in (REPORT, PLOTS):  # what lies there is still this build's
            if (uploader.root / folder).exists():
                uploader.upload(parent, folder)
    mlflow_runs.close(store, parent, build_status(record), now)
    mark_sent(record, store.identity)
    return uploader.warnings


def _build_tags(record: Build) -> dict[str, str]:
    tags = {"hallmark.status": describe_status(record["stages"])}
    if record["lock_hash"]:
        tags["hallmark.lock_hash"] = record["lock_hash"]
    return tags


def _tag_ran(store: Store, record: Build, row: Mapping[str, Any]) -> None:
    found = find_run(store, row["uid"])
    if found is not None and record["lock_hash"]:
        mlflow_runs.log(store, found.info.run_id, tags={"hallmark.lock_hash": record["lock_hash"]})


def _send_cached(store: Store, record: Build, parent: str, stage: str, row: Mapping[str, Any]) -> None:
    ended = record["ended"]
    tags = {
        **mlflow_runs.build_tags(record),
        "mlflow.parentRunId": parent,
        "hallmark.stage": stage,
        "hallmark.stage_key": row["key"],
        "hallmark.status": row["status"],
        **_origin_tags(store, row),
    }
    if record["lock_hash"]:
        tags["hallmark.lock_hash"] = record["lock_hash"]
    run_id = ensure_run(store, f"build {record['build']} {stage}", stage, ended, tags)
    figures = {figure_name(name): value for name, value in row["metrics"].items()} | origin_timing(row["key"])
    metrics = [point(name, value, ended) for name, value in figures.items()]
    mlflow_runs.log(store, run_id, metrics, flatten_params(row["params"]))
    mlflow_runs.log_inputs(store, run_id, row["deps"])
    mlflow_runs.close(store, run_id, "finished", ended)


def _origin_tags(store: Store, row: Mapping[str, Any]) -> dict[str, str]:
    """Where the outputs of a cached stage were made: a link, if this store has that run."""
    query = f"tags.`hallmark.stage_key` = '{row['key']}' and tags.`hallmark.status` = 'ran'"
    runs = store.client.search_runs(
        [store.experiment_id], query, max_results=1, order_by=["attributes.start_time DESC"]
    )
    if not runs:
        return {"mlflow.note.content": f"{row['status']}: the run that made these outputs is not in this store"}
    origin = runs[0].info.run_id
    note = f"{row['status']}: outputs, curves and seconds are those of [run {origin}]({store.link(origin)})"
    return {"hallmark.origin_run": origin, "mlflow.note.content": note}
