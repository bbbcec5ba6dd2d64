"""A whole build of real text: the same bytes again, nothing done twice, exactly resumed after a kill."""

import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.toy import ToyProject, make_toy_project

pytestmark = pytest.mark.end_to_end

TRAINING = ["finetune@package", "scratch@package", "evaluate@package", "report"]
CHECKPOINT = ".hallmark/stages/*/scratch/checkpoint-*.json"


def stages_run(printed: str) -> list[str]:
    return re.findall(r"Running stage '([^']+)'", printed)


def test_another_folder_and_other_threads_give_the_same_bytes(built_project: ToyProject, tmp_path: Path) -> None:
    """The one was built by two threads and fresh processes, the other is built by one thread and forks."""
    again = make_toy_project(tmp_path / "again")
    again.repro()
    assert again.lock == built_project.lock
    for metrics in sorted((built_project.root / "metrics").rglob("*.json")):
        assert (again.root / metrics.relative_to(built_project.root)).read_bytes() == metrics.read_bytes()


def test_a_second_build_does_nothing(built_project: ToyProject, tmp_path: Path) -> None:
    copy = built_project.copy(tmp_path / "copy")
    assert "Data and pipelines are up to date." in copy.repro().stdout
    assert copy.lock == built_project.lock


def test_lost_outputs_come_back_from_the_cache_without_running(built_project: ToyProject, tmp_path: Path) -> None:
    copy = built_project.copy(tmp_path / "copy")
    shutil.rmtree(copy.root / "models")
    (copy.root / "dvc.lock").unlink()
    assert stages_run(copy.repro().stdout) == []
    assert copy.lock == built_project.lock


def test_a_finetuning_setting_runs_only_finetuning_and_what_follows(built_project: ToyProject, tmp_path: Path) -> None:
    copy = built_project.copy(tmp_path / "copy")
    copy.change(finetune={"learning_rate": 0.003})
    assert sorted(stages_run(copy.repro("report").stdout)) == sorted(TRAINING)
    assert stages_run(copy.repro("--dry").stdout) == ["register@package"]
    assert copy.outputs("pretrain") == built_project.outputs("pretrain")
    assert copy.outputs("finetune@package") != built_project.outputs("finetune@package")


def test_a_setting_of_one_stage_leaves_those_before_it(built_project: ToyProject, tmp_path: Path) -> None:
    copy = built_project.copy(tmp_path / "copy")
    copy.change(tokenizer={"vocab_size": 321})
    planned = stages_run(copy.repro("--dry").stdout)
    assert planned[0] == "tokenizer"
    assert not {"ingest", "validate"} & set(planned)


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("pretrain", {"pretrain": {"steps": 250, "validate_every": 50}}),
        ("finetune@package", {"finetune": {"epochs": 40, "patience": 40}}),
    ],
)
def test_a_killed_training_goes_on_to_the_same_weights(
    built_project: ToyProject, tmp_path: Path, stage: str, changes: dict[str, dict[str, int]]
) -> None:
    undisturbed, killed = built_project.copy(tmp_path / "undisturbed"), built_project.copy(tmp_path / "killed")
    for project in (undisturbed, killed):
        project.change(**changes)
    undisturbed.repro(stage)
    kill_at_checkpoint(killed, stage)
    resumed = killed.repro(stage).stdout
    assert re.search(r"resumed after step [1-9]\d* from", resumed), resumed
    assert killed.outputs(stage) == undisturbed.outputs(stage)
    assert killed.lock == undisturbed.lock
    assert not list(killed.root.glob(CHECKPOINT))


def kill_at_checkpoint(project: ToyProject, stage: str) -> None:
    """Start a stage and kill -9 it with everything around it, once it has written a checkpoint."""
    process = project.start("dvc", "--wait-for-lock", "repro", stage, environment=project.warm)
    until = time.monotonic() + 120
    while not list(project.root.glob(CHECKPOINT)) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    printed = process.communicate()[0]
    assert process.returncode == -signal.SIGKILL, printed
    assert list(project.root.glob(CHECKPOINT)), "the training was over before it was killed"


def test_a_build_asked_to_stop_saves_and_goes_on(built_project: ToyProject, tmp_path: Path) -> None:
    stopped = built_project.copy(tmp_path / "stopped")
    stopped.change(pretrain={"steps": 400, "validate_every": 50, "checkpoint_every": 390})
    process = stopped.start("dvc", "--wait-for-lock", "repro", "pretrain", environment=stopped.warm)
    until = time.monotonic() + 120
    while not has_trained(stopped) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGTERM)
    printed = process.communicate()[0]
    assert process.returncode != 0, printed
    assert "`dvc repro` goes on from here" in printed
    assert re.search(r"resumed after step [1-9]\d* from", stopped.repro("pretrain").stdout)


def has_trained(project: ToyProject) -> bool:
    """Whether a training has told the first point of its curve."""
    return any(curve.stat().st_size for curve in project.root.glob(".hallmark/stages/*/scratch/metrics.jsonl"))
