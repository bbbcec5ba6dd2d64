"""The stage `pretrain` on two ranks: one of them is killed, and what starts again goes on to the same weights."""

import time
from pathlib import Path

import psutil
import pytest

from pipeline.common.files import read_jsonl
from tests.toy import ToyProject

pytestmark = pytest.mark.end_to_end

SETTINGS = {"processes": 2, "sharding": "full", "steps": 60, "validate_every": 30}


def checkpoints(project: ToyProject) -> set[Path]:
    return set(project.root.glob(".hallmark/stages/*/scratch/checkpoint-*.json"))


def is_rank(process: psutil.Process, rank: int, project: ToyProject) -> bool:
    try:
        return process.environ().get("RANK") == str(rank) and Path(process.cwd()) == project.root
    except psutil.Error:
        return False


def build_and_kill(project: ToyProject, rank: int) -> tuple[str, int]:
    """Start the stage and kill a rank of it after its first new checkpoint; what it printed, and its exit status."""
    before = checkpoints(project)
    process = project.start("dvc", "--wait-for-lock", "repro", "pretrain", environment=project.warm)
    while checkpoints(project) <= before:
        assert process.poll() is None
        time.sleep(0.01)
    [killed] = [other for other in psutil.process_iter() if is_rank(other, rank, project)]
    killed.kill()
    printed, _ = process.communicate()
    return printed, process.returncode


def test_after_the_death_of_a_rank_the_next_build_goes_on_and_after_another_the_stage_does_by_itself(
    built_project: ToyProject, tmp_path: Path
) -> None:
    undisturbed, killed = built_project.copy(tmp_path / "undisturbed"), built_project.copy(tmp_path / "killed")
    for project in (undisturbed, killed):
        project.change(pretrain=SETTINGS)
    said = undisturbed.repro("pretrain").stdout
    assert said.count("pretrain  ranks: 2, each on its share of every batch") == 1  # one rank speaks for both
    assert "pretrain  sharding: full: weights, gradients and optimizer in 2 " in said

    printed, status = build_and_kill(killed, rank=1)
    assert status != 0
    assert "hallmark: pretrain: interrupted by the death of rank 1 (SIGKILL, process " in printed, printed
    assert "Traceback" not in printed
    journals = [read_jsonl(path) for path in killed.root.glob(".hallmark/stages/*/journal.jsonl")]
    [struck] = [events for events in journals if events[-1].get("status") == "interrupted"]
    assert [event["event"] for event in struck].count("start") == 1
    assert struck[-1]["error"].startswith("interrupted by the loss of another rank")

    killed.change(compute={"restarts": 1})  # decides nothing of what comes out
    printed, status = build_and_kill(killed, rank=0)
    assert status == 0, printed
    assert "restart 1 of 1, on 2 ranks" in printed
    assert printed.count("pretrain  resumed after step ") == 2
    assert "Traceback" not in printed
    assert killed.outputs("pretrain") == undisturbed.outputs("pretrain")
