"""The stage `pretrain` on two ranks: one of them is killed, and the next start goes on to the same weights."""

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from pipeline.common.files import read_jsonl
from tests.toy import ToyProject

pytestmark = pytest.mark.end_to_end

SETTINGS = {"processes": 2, "steps": 100, "validate_every": 50}


def kill_rank(process: subprocess.Popen[str], scratch: str, root: Path, rank: int) -> None:
    """Kill a rank of a running stage after its first checkpoint."""
    while not list(root.glob(scratch)):
        assert process.poll() is None
        time.sleep(0.01)
    for child in psutil.Process(process.pid).children(recursive=True):
        if child.environ().get("RANK") == str(rank):
            os.kill(child.pid, signal.SIGKILL)


def test_a_killed_rank_ends_the_stage_and_the_next_build_goes_on(built_project: ToyProject, tmp_path: Path) -> None:
    undisturbed, killed = built_project.copy(tmp_path / "undisturbed"), built_project.copy(tmp_path / "killed")
    for project in (undisturbed, killed):
        project.change(pretrain=SETTINGS)
    said = undisturbed.repro("pretrain").stdout
    assert said.count("pretrain  ranks: 2, each on its share of every batch") == 1  # one rank speaks for both

    process = killed.start("dvc", "--wait-for-lock", "repro", "pretrain")
    kill_rank(process, ".hallmark/stages/*/scratch/checkpoint-*.json", killed.root, rank=1)
    printed, _ = process.communicate()
    assert process.returncode != 0
    assert "hallmark: pretrain: interrupted by the death of rank 1 (SIGKILL, process " in printed, printed
    assert "Traceback" not in printed
    journals = [read_jsonl(path) for path in killed.root.glob(".hallmark/stages/*/journal.jsonl")]
    [struck] = [events for events in journals if events[-1].get("status") == "interrupted"]
    assert [event["event"] for event in struck].count("start") == 1
    assert struck[-1]["error"].startswith("interrupted by the loss of another rank")

    assert "pretrain  resumed after step " in killed.repro("pretrain").stdout
    assert killed.outputs("pretrain") == undisturbed.outputs("pretrain")


def test_a_sharded_training_goes_on_by_itself_if_it_may(built_project: ToyProject, tmp_path: Path) -> None:
    undisturbed, killed = built_project.copy(tmp_path / "undisturbed"), built_project.copy(tmp_path / "killed")
    for project in (undisturbed, killed):
        project.change(pretrain=SETTINGS | {"sharding": "full"})
    assert "pretrain  sharding: full: weights, gradients and optimizer in 2 " in undisturbed.repro("pretrain").stdout

    killed.change(compute={"restarts": 1})  # decides nothing of what comes out
    process = killed.start("dvc", "--wait-for-lock", "repro", "pretrain")
    kill_rank(process, ".hallmark/stages/*/scratch/checkpoint-*.json", killed.root, rank=0)
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    assert "restart 1 of 1, on 2 ranks" in printed
    assert "pretrain  resumed after step " in printed
    assert "Traceback" not in printed
    assert killed.outputs("pretrain") == undisturbed.outputs("pretrain")
