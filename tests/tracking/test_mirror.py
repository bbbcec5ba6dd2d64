"""Journals become MLflow runs: every point once, whatever dies in between."""

import json
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from pipeline.common.files import write_json
from pipeline.tracking import mirror as mirror_module
from pipeline.tracking.mirror import Mirror
from pipeline.tracking.mlflow_store import Store, open_store
from tests.tracking.conftest import Begin, curve, finish, runs


def send() -> Mirror:
    mirror = Mirror()
    assert mirror.send(), mirror.failure
    return mirror


def test_a_journal_becomes_a_run_below_its_builds_run(store: Store, begin: Begin, tmp_path: Path) -> None:
    params = {"seed": 1, "model": {"depth": 4, "tied": False}, "tasks.library": {"labels": ["a", "b"], "path": None}}
    journal = begin(params=params, deps={"data/tokens": "0" * 32 + ".dir", "pipeline/model": "1" * 32})
    journal.note({"hidden_size": "256 (64 x depth)"})
    journal.metrics(1, {"loss": 3.0})
    journal.metrics(2, {"loss": 2.5})
    write_json(tmp_path / "metrics" / "pretrain.json", {"accuracy": {"value": 0.5, "low": 0.4}})
    journal.summary({"accuracy.value": 0.5, "accuracy.low": 0.4})
    (tmp_path / "page.html").write_text("hello")
    journal.artifact("page.html")
    finish(journal)

    assert send().points == 6

    (run,) = runs(store, stage="pretrain")
    assert run.info.status == "FINISHED"
    assert curve(store, run.info.run_id, "loss") == [(1, 3.0), (2, 2.5)]
    assert {n: run.data.metrics[n] for n in ("accuracy", "accuracy.low", "seconds")} == {
        "accuracy": 0.5,
        "accuracy.low": 0.4,
        "seconds": 1.5,
    }
    assert run.data.params == {
        "seed": "1",
        "model.depth": "4",
        "model.tied": "false",
        "tasks.library.labels": '["a", "b"]',
        "tasks.library.path": "null",
        "derived.hidden_size": "256 (64 x depth)",
    }
    tags = run.data.tags
    assert (tags["hallmark.status"], tags["hallmark.stage_key"], tags["hallmark.git_commit"]) == (
        "ran",
        "a" * 64,
        "c0ffee",
    )
    inputs = [(given.dataset.name, given.dataset.digest) for given in run.inputs.dataset_inputs]
    assert inputs == [("data/tokens", "0" * 32 + ".dir")]
    assert {a.path for a in store.client.list_artifacts(run.info.run_id)} == {"metrics", "page.html"}

    parent = store.client.get_run(tags["mlflow.parentRunId"])
    assert parent.info.run_name == "build first"
    assert parent.data.params["model.depth"] == "4"


def test_sending_again_changes_nothing(store: Store, begin: Begin) -> None:
    journal = begin()
    journal.metrics(1, {"loss": 3.0})
    finish(journal)
    assert send().points == 3
    assert send().points == 0
    assert len(runs(store, stage="pretrain")) == 1


def test_a_resumed_stage_is_one_curve(store: Store, begin: Begin, dead_process: int) -> None:
    killed = begin(pid=dead_process, build="first")
    for step in (1, 2, 3):
        killed.metrics(step, {"loss": 1 / step})
    killed.close()
    send()
    (run,) = runs(store, stage="pretrain")
    assert (run.info.status, run.data.tags["hallmark.status"]) == ("KILLED", "killed")

    resumed = begin(build="second")  # from the checkpoint of step 2
    resumed.metrics(3, {"loss": 1 / 3, "tokens_per_second": 7.0})
    resumed.metrics(4, {"loss": 1 / 4})
    send()
    (run,) = runs(store, stage="pretrain")
    assert run.info.status == "RUNNING"
    finish(resumed)
    send()

    (run,) = runs(store, stage="pretrain")
    assert run.info.status == "FINISHED"
    assert curve(store, run.info.run_id, "loss") == [(1, 1.0), (2, 1 / 2), (3, 1 / 3), (4, 1 / 4)]
    assert store.client.get_run(run.data.tags["mlflow.parentRunId"]).info.run_name == "build second"


def test_a_stage_that_finished_and_runs_again_is_another_run(store: Store, begin: Begin) -> None:
    finish(begin())
    finish(begin(build="second"))
    send()
    assert len(runs(store, stage="pretrain")) == 2


@pytest.mark.parametrize(("status", "shown"), [("failed", "FAILED"), ("interrupted", "KILLED")])
def test_how_a_stage_ended_is_shown(store: Store, begin: Begin, status: str, shown: str) -> None:
    finish(begin(), status, "the loss is not finite")
    send()
    (run,) = runs(store, stage="pretrain")
    assert run.info.status == shown
    assert run.data.tags["hallmark.status"] == status
    assert run.data.tags["hallmark.error"] == "the loss is not finite"


def test_a_batch_that_arrived_though_the_answer_was_lost_is_not_doubled(
    store: Store, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = begin()
    mirror = Mirror()
    mirror.send()
    for step in range(5):
        journal.metrics(step, {"loss": float(step)})
    assert mirror.store is not None
    client = mirror.store.client
    genuine = client.log_batch

    def lose_the_answer(*args: Any, **kwargs: Any) -> None:
        genuine(*args, **kwargs)
        raise MlflowException("the connection was reset")

    with monkeypatch.context() as patch:
        patch.setattr(client, "log_batch", lose_the_answer)
        assert not mirror.send()
    assert "connection was reset" in (mirror.failure or "")
    finish(journal)
    assert mirror.send(), mirror.failure
    (run,) = runs(store, stage="pretrain")
    assert curve(store, run.info.run_id, "loss") == [(step, float(step)) for step in range(5)]


def test_more_points_than_mlflow_takes_at_once(store: Store, begin: Begin) -> None:
    journal = begin()
    for step in range(1200):
        journal.metrics(step, {"loss": 1.0, "rate": 2.0})
    send()
    (run,) = runs(store, stage="pretrain")
    assert len(curve(store, run.info.run_id, "loss")) == 1200
    assert len(curve(store, run.info.run_id, "rate")) == 1200


def test_a_new_database_gets_everything_again(
    store: Store, begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = begin()
    journal.metrics(1, {"loss": 3.0})
    finish(journal)
    send()
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
    send()
    other = open_store()
    assert other.experiment_id != store.experiment_id
    assert len(runs(other, stage="pretrain")) == len(runs(store, stage="pretrain")) == 1


def test_a_run_that_a_person_deleted_stays_deleted_and_holds_nothing_up(store: Store, begin: Begin) -> None:
    journal = begin()
    send()
    (run,) = runs(store, stage="pretrain")
    store.client.delete_run(run.info.run_id)
    journal.metrics(1, {"loss": 3.0})
    finish(journal)
    finish(begin("evaluate@library", key="b" * 64))
    warnings = send().warnings
    assert len(warnings) == 1
    assert "refused" in warnings[0]
    assert runs(store, stage="pretrain") == []
    assert runs(store, stage="evaluate@library")[0].info.status == "FINISHED"


def test_odd_names_torn_lines_and_lost_artifacts_hold_nothing_up(store: Store, begin: Begin) -> None:
    journal = begin()
    journal.metrics(1, {"f1/C++ 语言/../x": 0.5, "loss": float("nan")})
    journal.artifact("nowhere.html")
    journal.path.open("a").write("not json\n")
    journal.metrics(2, {"loss": 1.0})
    finish(journal)
    journal.path.open("a").write('{"event": "metr')
    warnings = send().warnings
    assert "nowhere.html" in warnings[0]
    (run,) = runs(store, stage="pretrain")
    assert run.info.status == "FINISHED"
    assert run.data.metrics["loss"] == 1.0
    assert any("C__ 语言" in name for name in run.data.metrics)


def test_a_store_that_is_away_costs_one_warning_for_each_build(
    machine: Path, begin: Begin, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # discard: nobody listens
    monkeypatch.setattr(mirror_module, "spawn_mirror", lambda: None)
    begin()
    mirror = Mirror()
    assert not mirror.send()
    assert not mirror.send()
    capsys.readouterr()
    for _stage in range(3):
        mirror_module.start_mirror()
    warned = capsys.readouterr().err
    assert warned.count("MLflow does not answer") == 1
    assert "hallmark sync" in warned


def test_tracking_can_be_switched_off(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALLMARK_TRACKING", "off")
    monkeypatch.setattr(mirror_module, "spawn_mirror", lambda: pytest.fail("a mirror was started"))
    mirror_module.start_mirror()


def test_starting_the_mirror_never_raises(
    machine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.joinpath("builds").write_text("a file where a folder should be")
    mirror_module.start_mirror()
    assert "the mirror did not start" in capsys.readouterr().err


def test_samples_of_the_machine_reach_the_run(store: Store, begin: Begin) -> None:
    from pipeline.tracking.system import SYSTEM_JOURNAL, Sampler

    journal = begin()
    sampler = Sampler()
    running = sampler.running()
    assert [run.start["stage"] for _folder, run in running] == ["pretrain"]
    sampler.sample(running)
    sampler.sample(running)  # too soon for another
    assert len((journal.path.parent / SYSTEM_JOURNAL).read_text().splitlines()) == 1
    send()
    (run,) = runs(store, stage="pretrain")
    assert run.data.metrics["system/process_memory_megabytes"] > 10
    assert "system/cpu_utilization_percentage" in run.data.metrics


def test_gpu_samples() -> None:
    from pipeline.tracking.system import parse_gpus

    assert parse_gpus("0, 97, 1000\n1, [N/A], 2000\n") == {
        "system/gpu_0_utilization_percentage": 97.0,
        "system/gpu_0_memory_usage_megabytes": pytest.approx(1048.576),
        "system/gpu_1_memory_usage_megabytes": pytest.approx(2097.152),
    }


def test_what_was_sent_is_remembered_beside_the_journal(store: Store, begin: Begin) -> None:
    journal = begin()
    finish(journal)
    send()
    state = json.loads((journal.path.parent / "mirror.json").read_text())[store.identity]
    assert state["complete"]
    assert state["offset"] == journal.path.stat().st_size
