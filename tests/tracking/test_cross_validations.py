"""A cross-validation in MLflow: figures, folds and origin, and the same run however often it is sent."""

from pathlib import Path

import pytest

from pipeline.common.params import Params
from pipeline.evaluation.cross_validation import CrossValidation
from pipeline.tracking.cross_validations import EXPERIMENT, send_cross_validation
from pipeline.tracking.mlflow_store import Store, open_store
from pipeline.tracking.stage_key import decisive, stage_key

FOUND = CrossValidation(
    "library", [5, 4], [{"macro_f1": 0.5}, {"macro_f1": 0.75}], {"macro_f1": 0.625}, {"macro_f1": 0.25}
)
LOCK = """
stages:
  pretrain:
    cmd: python -m pipeline.stages.pretrain
    deps:
    - path: data/tokens
      md5: abc
"""


@pytest.fixture
def folds(machine: Path, tmp_path: Path) -> Store:
    (tmp_path / "dvc.lock").write_text(LOCK)
    return open_store(EXPERIMENT)


def test_a_run_has_mean_and_deviation_and_one_below_it_each_fold(folds: Store) -> None:
    assert "has it, experiment cross-validation, run " in send_cross_validation(FOUND, Params(seed=7), 100.0)
    runs = folds.client.search_runs([folds.experiment_id])
    [parent] = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert parent.data.metrics == {"macro_f1.mean": 0.625, "macro_f1.deviation": 0.25}
    assert {(run.data.params["fold"], run.data.metrics["macro_f1"], run.data.metrics["rows"]) for run in children} == {
        ("1", 0.5, 5.0),
        ("2", 0.75, 4.0),
    }
    entry = {"cmd": "python -m pipeline.stages.pretrain", "deps": [{"path": "data/tokens", "md5": "abc"}]}
    for run in (parent, *children):
        assert run.info.status == "FINISHED"
        assert (run.data.params["seed"], run.data.params["finetune.epochs"]) == ("7", "8")
        assert run.data.tags["hallmark.task"] == "library"
        assert run.data.tags["hallmark.git_dirty"] == "false"
        assert run.data.tags["hallmark.stage_key.pretrain"] == stage_key(decisive("pretrain", entry))


def test_sent_again_it_is_the_same_run_and_other_settings_are_another(folds: Store) -> None:
    first = send_cross_validation(FOUND, Params(), 100.0)
    assert send_cross_validation(FOUND, Params(), 200.0) == first
    assert len(folds.client.search_runs([folds.experiment_id])) == 3
    run_id = first.rpartition(" ")[2]
    assert len(folds.client.get_metric_history(run_id, "macro_f1.mean")) == 1
    assert send_cross_validation(FOUND, Params(seed=8), 100.0) != first


def test_a_torn_one_is_completed(folds: Store) -> None:
    run_id = send_cross_validation(FOUND, Params(), 100.0).rpartition(" ")[2]
    folds.client.update_run(run_id, status="RUNNING")
    assert send_cross_validation(FOUND, Params(), 100.0).endswith(run_id)
    assert folds.client.get_run(run_id).info.status == "FINISHED"
    assert len(folds.client.search_runs([folds.experiment_id])) == 3


def test_a_tracker_that_is_away_is_a_warning(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////dev/null/nowhere.db")
    assert send_cross_validation(FOUND, Params(), 100.0).startswith("warning: the cross-validation is not in MLflow")
