"""A stage is one process group: it is streamed, it takes the GPU slot, and nothing of it outlives the flow."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from flows.gpu import gpu_slot, is_leftover
from flows.stage import StageError, StageProcesses, StageStoppedError
from pipeline.common.files import write_json
from tests.flows.conftest import ROOT, gpu_is_free, processes_in, started, until, wish


def stages_of(project: Path) -> StageProcesses:
    return StageProcesses(root=project, home=project / ".hallmark")


def test_outcomes_and_the_log_line_by_line(project: Path) -> None:
    lines: list[str] = []
    stages = stages_of(project)
    assert stages.run("prepare", gpu=False, on_line=lines.append) == "ran"
    assert "prepare says hello in project" in lines
    assert stages.run("prepare", gpu=False, on_line=lines.append) == "unchanged"
    for output in ("data/prepared.txt", "metrics/prepare.json", "dvc.lock"):
        (project / output).unlink()
    assert stages.run("prepare", gpu=False, on_line=lines.append) == "restored"
    assert started(project) == ["prepare"]
    assert processes_in(project) == []


def test_a_failure_says_what_the_stage_said(project: Path) -> None:
    stages = stages_of(project)
    stages.run("prepare", gpu=False, on_line=str)
    wish(project, "fail")
    with pytest.raises(StageError) as caught:
        stages.run("train", gpu=True, on_line=str)
    assert caught.value.known  # so that no retry is tried
    assert str(caught.value).splitlines()[1:] == [
        "hallmark: train: the loss is not finite",
        "  next: lower the learning rate",
    ]
    wish(project, "fail once")
    with pytest.raises(StageError) as caught:
        stages.run("train", gpu=True, on_line=str)
    assert not caught.value.known
    assert gpu_is_free(project)


def test_stop_ends_the_group_after_it_has_saved(project: Path) -> None:
    stages = stages_of(project)
    stages.run("prepare", gpu=False, on_line=str)
    wish(project, "wait")
    ended: list[Exception] = []

    def train() -> None:
        try:
            stages.run("train", gpu=True, on_line=str)
        except StageStoppedError as error:
            ended.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    until(lambda: started(project) == ["prepare", "train"])
    assert not gpu_is_free(project)
    stages.stop()
    thread.join(5)
    assert len(ended) == 1
    assert processes_in(project) == []
    assert gpu_is_free(project)
    assert (project / ".hallmark/scratch.txt").read_text() == "half"  # it was asked, not killed
    with pytest.raises(StageStoppedError, match="was not started"):
        stages.run("train", gpu=True, on_line=str)


FLOW = """
import sys; from pathlib import Path; from flows.stage import StageProcesses
root = Path(sys.argv[1])
StageProcesses(root, root / ".hallmark").run("train", gpu=True, on_line=str)
"""


@pytest.mark.parametrize("victim", ["flow", "guard"])
def test_a_killed_flow_or_guard_leaves_no_process_and_no_gpu_busy(built: Path, victim: str) -> None:
    wish(built, "wait")
    (built / "params.yaml").write_text("finetune:\n  learning_rate: 0.5\n")
    flow = subprocess.Popen([sys.executable, "-c", FLOW, str(built)], cwd=ROOT, stderr=subprocess.DEVNULL)
    until(lambda: started(built) == ["train"])
    _, pid, group = (built / ".hallmark/started.txt").read_text().split()
    os.kill(flow.pid if victim == "flow" else int(group), signal.SIGKILL)
    until(lambda: not psutil.pid_exists(int(pid)) and not processes_in(built), 15)
    flow.wait(15)
    until(lambda: gpu_is_free(built), 10)  # the dead of a killed parent are buried a moment later
    assert (built / ".hallmark/scratch.txt").exists()


def test_the_slot_is_waited_for_and_its_holder_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = "import sys, pathlib; from flows.gpu import gpu_slot\n"
    code += "with gpu_slot(pathlib.Path(sys.argv[1]), 'second'): print('got it', flush=True)"
    with gpu_slot(tmp_path, "first"):
        second = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
        until(lambda: "waiting for the GPU: first (process group" in _seen(capfd))
    assert second.wait(20) == 0
    until(lambda: "got it" in _seen(capfd))
    assert not (tmp_path / "gpu.json").exists()


def _seen(capfd: pytest.CaptureFixture[str], heard: list[str] = []) -> str:  # noqa: B006 (it collects)
    heard.append(capfd.readouterr().out)
    return "".join(heard)


def test_a_group_whose_leader_was_killed_is_waited_for(tmp_path: Path) -> None:
    leader = subprocess.Popen(["sh", "-c", "sleep 60 & echo $!; wait"], start_new_session=True, stdout=subprocess.PIPE)
    assert leader.stdout is not None
    child = int(leader.stdout.readline())
    assert not is_leftover(leader.pid)  # its leader lives
    leader.kill()
    leader.wait()
    assert is_leftover(leader.pid)
    write_json(tmp_path / "gpu.json", {"process_group": leader.pid, "holder": "train"})
    threading.Timer(0.5, os.kill, (child, signal.SIGKILL)).start()
    with gpu_slot(tmp_path, "next"):
        assert not is_leftover(leader.pid)
