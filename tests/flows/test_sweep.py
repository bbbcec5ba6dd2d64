"""Settings x seeds to a ranked table: wrong ones refused at once, cached stages shared, killed sweeps gone on with."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from flows.arm_build import ArmBuilder
from flows.arms import ArmPlan, needed, parse_grid, plan_sweep, read_request
from flows.plan import make_plan
from flows.stage import StageError, StageStoppedError
from pipeline.common.errors import HallmarkError
from tests.flows.conftest import environment, prefect_server, processes_in, run, started, until, wish

RATE = "finetune.learning_rate"


def test_a_grid_on_the_command_line_is_values_by_commas_or_a_json_list() -> None:
    pairs = ["a.b=1,2.5", "c=x,null", 'd=["p,q", "r"]', "e=[[1, 2], []]", "f=1e-4"]
    expected = {"a.b": [1, 2.5], "c": ["x", None], "d": ["p,q", "r"], "e": [[1, 2], []], "f": [0.0001]}
    assert parse_grid(pairs) == expected
    with pytest.raises(HallmarkError, match="'a' is not NAME=VALUE"):
        parse_grid(["a"])


def test_every_combination_with_every_seed_and_the_first_is_the_reference(project: Path) -> None:
    grid = {RATE: [0.1, 0.2], "finetune.dropout": [0.0, 0.5]}
    plan = plan_sweep({"grid": grid, "seeds": [3, 1], "target": "train", "metric": "train.length"}, project)
    assert plan.name == "learning_rate-dropout"
    assert plan.settings[0] == {RATE: 0.1, "finetune.dropout": 0.0}
    assert [(arm.settings[RATE], arm.settings["finetune.dropout"], arm.seed) for arm in plan.arms] == [
        (rate, dropout, seed) for rate in (0.1, 0.2) for dropout in (0.0, 0.5) for seed in (3, 1)
    ]
    assert len({arm.id for arm in plan.arms}) == 8
    assert plan.arms[0].overrides == {RATE: 0.1, "finetune.dropout": 0.0, "seed": 3}


def test_a_file_holds_a_list_and_numbers_as_dvc_reads_them(project: Path) -> None:
    file = project / "sweep.yaml"
    file.write_text(f"name: rates\nlist:\n  - {{}}\n  - {RATE}: 1e-4\nseeds: 7\nmetric: train.f1\n")
    plan = plan_sweep(read_request(file), project)
    assert plan.settings == ({}, {RATE: 1e-4})
    assert plan.seeds == (7,)
    assert plan.targets == ("train",)  # where the figure comes from
    assert [step.name for step in needed(make_plan(project), plan.targets)] == ["prepare", "train"]
    with pytest.raises(HallmarkError, match="there is no such file"):
        read_request(project / "none.yaml")
    file.write_text("- a\n")
    with pytest.raises(HallmarkError, match="a sweep is a mapping; allowed: name, grid"):
        read_request(file)


def test_all_that_is_wrong_is_said_at_once_and_nothing_is_made(project: Path) -> None:
    request = {
        "name": "../up",
        "grid": {"finetune.learning_rat": [1], "finetune.pooling": ["mean", "max"], "seed": [1]},
        "seeds": [1, -2],
        "target": "trian",
        "metric": ["tasks.none.macro_f1"],
        "parallel": 0,
        "seds": [1],
    }
    with pytest.raises(HallmarkError) as caught:
        plan_sweep(request, project)
    message = str(caught.value)
    for problem in (
        "seds: unknown key; allowed: name, grid, list, seeds",
        "seeds: whole numbers from 0 on",
        "parallel: a whole number from 1 on, not 0",
        "name: letters, digits",
        "there is no stage 'trian'; allowed: prepare, train, count, report",
        "no stage writes 'tasks.none.macro_f1'; allowed: prepare.FIGURE, train.FIGURE",
        "did you mean learning_rate? allowed: adapt, lora_rank, lora_alpha",
        "finetune.pooling: Input should be 'mean'",
        "not 'max'   (in finetune.learning_rat=1, finetune.pooling=max, seed=1)",
        "seed: belongs in `seeds`",
    ):
        assert message.count(problem) == 1, problem
    assert not (project / ".hallmark").exists()
    for wrong in ({}, {"grid": {}, "list": []}, {"grid": {RATE: 1}}, {"list": [{RATE: 1}, {RATE: 1}]}, {"list": [1]}):
        with pytest.raises(HallmarkError, match=r"grid|list|named twice"):
            plan_sweep(wrong | {"target": "train"}, project)


def builder(project: Path) -> ArmBuilder:
    home = project / ".hallmark"
    return ArmBuilder(project, home, home / "sweeps/rates/arms", ["train"])


def test_an_arm_is_recognised_by_its_stage_keys(built: Path) -> None:
    arm = ArmPlan({RATE: 0.5}, 1)
    record, done = builder(built).build(arm, str)
    assert done
    assert started(built) == ["train"]  # `prepare` came from the checkout
    f1 = {"f1": 0.5, "f1.low": 0.4, "f1.high": 0.6}
    figures = {"prepare": {"length": 3.0, **f1}, "train": {"length": 14.0, **f1}}
    assert record["figures"] == {
        f"{stage}.{name}": value for stage in figures for name, value in figures[stage].items()
    }
    assert list(record["stages"]) == ["prepare", "train"]
    assert record["sources"].keys() == {"step.py", "source.txt"}
    again, done = builder(built).build(arm, str)
    assert (again, done) == (record, False)
    (built / "source.txt").write_text("other")  # the same name and settings, on other data
    other, done = builder(built).build(arm, str)
    assert done
    assert started(built) == ["train", "prepare", "train"]
    assert other["stages"]["train"] != record["stages"]["train"]
    (built / "source.txt").write_text("raw")
    _, done = builder(built).build(arm, str)
    assert done
    assert started(built) == ["train", "prepare", "train"]  # from the cache


def test_a_stopped_sweep_leaves_nothing_and_starts_nothing(built: Path) -> None:
    wish(built, "wait")
    sweep, arm = builder(built), ArmPlan({RATE: 0.5}, 1)
    with ThreadPoolExecutor() as threads:
        building = threads.submit(sweep.build, arm, str)
        until(lambda: started(built) == ["train"] or building.done())
        sweep.stop()
        with pytest.raises(StageStoppedError, match="train was stopped"):
            building.result(30)
    assert processes_in(built) == []
    assert (built / ".hallmark/scratch.txt").read_text() == "half"  # it was asked to save
    with pytest.raises(StageStoppedError, match="was not started"):
        sweep.build(arm, str)
    _, done = builder(built).build(arm, str)  # started again, it goes on from there
    assert done
    assert started(built) == ["train", "train"]


def test_arms_at_once_build_what_they_share_once(built: Path) -> None:
    (built / "source.txt").write_text("other")  # makes `prepare` stale in both arms
    sweep = builder(built)
    with ThreadPoolExecutor() as threads:
        arms = [ArmPlan({RATE: rate}, 1) for rate in (0.5, 0.6)]
        first, second = threads.map(lambda arm: sweep.build(arm, str)[0], arms)
    assert sorted(started(built)) == ["prepare", "train", "train"]
    assert first["stages"]["prepare"] == second["stages"]["prepare"]
    assert first["stages"]["train"] != second["stages"]["train"]


def test_a_failed_arm_says_why(built: Path) -> None:
    wish(built, "fail")
    with pytest.raises(StageError, match="the loss is not finite") as caught:
        builder(built).build(ArmPlan({RATE: 0.5}, 1), str)
    assert caught.value.known
    assert not (built / ".hallmark/sweeps").exists()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, prefect_database: Path) -> Iterator[dict[str, str]]:
    folder, quiet = tmp_path_factory.mktemp("server"), {"PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    with prefect_server(folder, prefect_database, quiet) as settings:
        yield {name: settings[name] for name in ("PREFECT_HOME", "PREFECT_API_URL")}


@pytest.fixture
def seeded(project: Path) -> Path:
    """The tiny project, built, where the seed decides what `prepare` does, and `train` measures bits per byte."""
    stages, step = project / "dvc.yaml", project / "step.py"
    stages.write_text(stages.read_text().replace("data/prepared.txt\n", "data/prepared.txt ${seed}\n", 1))
    step.write_text(step.read_text().replace('"length"', '"bits_per_byte"'))
    run(sys.executable, "-m", "dvc", "repro", "-q", "train", cwd=project)
    (project / ".hallmark/started.txt").unlink()
    return project


SWEEP = [sys.executable, "-m", "flows.sweep", "--name", "rates", "--seeds", "1,2", "--grid", f"{RATE}=0.001,0.01"]
SWEEP += ["--metric", "train.f1", "--metric", "train.bits_per_byte"]


def records(project: Path) -> dict[Path, dict[str, Any]]:
    return {path: json.loads(path.read_text()) for path in (project / ".hallmark/sweeps/rates").glob("arms/*/arm.json")}


@pytest.mark.server
def test_a_killed_sweep_goes_on_and_ends_with_the_table_and_the_runs(
    server: dict[str, str], seeded: Path, tmp_path: Path
) -> None:
    wish(seeded, "wait")
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    first = subprocess.Popen(SWEEP, cwd=seeded, env=environment() | server, **pipes)
    try:  # the first arm is what is built already; the second, with another seed, is killed in training
        until(lambda: started(seeded) == ["prepare", "train"] or first.poll() is not None, 180)
    finally:
        first.kill()
        said, _ = first.communicate()
    assert started(seeded) == ["prepare", "train"], said
    until(lambda: not processes_in(seeded), 30)
    finished = {path: path.stat().st_mtime_ns for path in records(seeded)}
    assert len(finished) == 1
    assert not (seeded / ".hallmark/sweeps/rates/index.html").exists()

    wish(seeded, "")
    assert "3 arms built, 1 finished before" in run(*SWEEP, cwd=seeded, more=server)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert len(records(seeded)) == 4
    ran = started(seeded)
    assert ran == ["prepare", "train", "train", "train", "train"]  # the killed one, and three arms

    again = run(*SWEEP, cwd=seeded, more=server | {"HALLMARK_TRACKING": "on"})
    assert "0 arms built, 4 finished before" in again
    assert started(seeded) == ran
    folder = seeded / ".hallmark/sweeps/rates"
    page, markdown = (folder / "index.html").read_text(), (folder / "sweep.md").read_text()
    for text in ("learning_rate=0.01", "against the reference", "noise"):
        assert text in page
        assert text in again
    assert "higher is better" in markdown
    assert "train.bits\\_per\\_byte, lower is better" in markdown

    parent, children = sweep_runs(seeded)
    assert parent.info.status == "FINISHED"
    assert {(run.data.params[RATE], run.data.params["seed"]) for run in children} == {
        (rate, seed) for rate in ("0.001", "0.01") for seed in ("1", "2")
    }
    for child in children:
        mine = next(r for r in records(seeded).values() if r["build"] == child.data.tags["hallmark.build"])
        assert child.data.metrics["train.bits_per_byte"] == mine["figures"]["train.bits_per_byte"]
        assert child.data.tags["hallmark.stage_key.train"] == mine["stages"]["train"]


def sweep_runs(project: Path) -> tuple[Run, list[Run]]:
    """The sweep's own run and those of its arms."""
    client = MlflowClient(f"sqlite:///{project}/.hallmark/mlflow/mlflow.db")
    experiment = client.get_experiment_by_name("sweeps")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parents) == 1
    assert {item.path for item in client.list_artifacts(parents[0].info.run_id)} == {
        "index.html",
        "sweep.md",
        "sweep.json",
    }
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
    assert len(children) == 4
    return parents[0], children
