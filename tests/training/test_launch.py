"""The ranks of a training end together, whatever ends first."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common.processes import is_alive
from pipeline.training.launch import LOST_RANK, End, count_processes, fewer, rank_here, run_ranks

# A rank writes its id and waits. One that is asked to stop "saves" for a moment, as rank 0 does.
RANK = """
import os, signal, sys, time
from pathlib import Path
def stop(number, frame):
    time.sleep(0.3)
    Path(f"{os.environ['RANK']}.saved").touch()
    sys.exit(128 + number)
signal.signal(signal.SIGTERM, stop)
Path(os.environ["RANK"] + ".tmp").write_text(str(os.getpid()))
os.rename(os.environ["RANK"] + ".tmp", os.environ["RANK"] + ".pid")
"""
LAUNCHER = """
import sys
from pipeline.common.processes import raise_on_signals
from pipeline.training.launch import run_ranks
raise_on_signals()
end = run_ranks([sys.executable, "-c", sys.argv[1]], 2, restarts=int(sys.argv[2]))
print(end.said)
sys.exit(end.code)
"""
WAITS = RANK + "time.sleep(300)"


def launch(folder: Path, program: str, restarts: int = 0) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-c", LAUNCHER, program, str(restarts)]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)


def ranks_of(folder: Path) -> list[int]:
    """The process ids of both ranks, once both are there."""
    files = [folder / f"{rank}.pid" for rank in (0, 1)]
    while not all(file.exists() for file in files):
        time.sleep(0.01)
    return [int(file.read_text()) for file in files]


def test_each_rank_gets_the_environment_of_torchrun(tmp_path: Path) -> None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR")
    told = f"[*(os.environ[name] for name in {names}), str(int(os.environ['MASTER_PORT']) > 0)]"
    program = f"import os; os.write(1, (' '.join({told}) + chr(10)).encode())"  # at once: both write into one pipe
    said, _ = launch(tmp_path, program).communicate()
    assert sorted(said.splitlines()) == ["0 0 2 2 127.0.0.1 True", "1 1 2 2 127.0.0.1 True", "None"]


def test_a_killed_rank_is_named_and_the_other_stopped(tmp_path: Path) -> None:
    launcher = launch(tmp_path, WAITS)
    ranks = ranks_of(tmp_path)
    os.kill(ranks[1], signal.SIGKILL)
    said, _ = launcher.communicate()
    assert said == f"interrupted by the death of rank 1 (SIGKILL, process {ranks[1]})\n"
    assert launcher.returncode == 128 + signal.SIGKILL
    assert (tmp_path / "0.saved").exists()
    assert not any(is_alive(rank) for rank in ranks)


def test_a_rank_that_fails_gives_its_exit_status(tmp_path: Path) -> None:
    launcher = launch(tmp_path, WAITS + " if os.environ['RANK'] == '0' else sys.exit(3)")
    said, _ = launcher.communicate()
    assert (said, launcher.returncode) == ("None\n", 3)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ranks_save_and_stop_with_a_launcher_that_is_asked_to(tmp_path: Path, number: signal.Signals) -> None:
    launcher = launch(tmp_path, WAITS)
    ranks = ranks_of(tmp_path)
    launcher.send_signal(number)
    launcher.communicate()
    assert launcher.returncode == 128 + number
    assert (tmp_path / "0.saved").exists()
    assert (tmp_path / "1.saved").exists()
    assert not any(is_alive(rank) for rank in ranks)


def test_ranks_that_started_again_save_and_stop_with_a_launcher_that_is_asked_to(tmp_path: Path) -> None:
    """And are not started once more."""
    launcher = launch(tmp_path, WAITS, restarts=5)
    first = ranks_of(tmp_path)
    for rank in (0, 1):
        (tmp_path / f"{rank}.pid").unlink()
    os.kill(first[0], signal.SIGKILL)
    again = ranks_of(tmp_path)
    launcher.send_signal(signal.SIGTERM)
    launcher.communicate()
    assert launcher.returncode == 128 + signal.SIGTERM
    assert not any(is_alive(rank) for rank in first + again)
    assert not set(first) & set(again)


# Each start leaves a line: how many ranks there are, and the port where they meet.
STARTS = """
import os, signal, sys, time
if os.environ["RANK"] == "0":
    with open("starts", "a") as file:
        print(os.environ["WORLD_SIZE"], os.environ["MASTER_PORT"], file=file, flush=True)
"""
DIES = STARTS + 'if os.environ["RANK"] == "0": os.kill(os.getpid(), signal.SIGKILL)'


def starts(folder: Path) -> list[str]:
    return (folder / "starts").read_text().splitlines()


@pytest.mark.parametrize(("least", "sizes"), [(None, [4, 4, 4]), (1, [4, 2, 1]), (2, [4, 2, 2])])
def test_after_a_death_ranks_start_again_as_many_or_fewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: int | None, sizes: list[int]
) -> None:
    monkeypatch.chdir(tmp_path)
    end = run_ranks([sys.executable, "-c", DIES], 4, restarts=2, least=least)
    assert (end.code, end.lost) == (128 + signal.SIGKILL, True)
    assert [int(line.split()[0]) for line in starts(tmp_path)] == sizes
    assert len({line.split()[1] for line in starts(tmp_path)}) == 3


def test_a_start_that_ends_well_is_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    once = STARTS + 'if os.environ["RANK"] == "0" and open("starts").read().count("\\n") == 1: sys.exit(75)'
    assert run_ranks([sys.executable, "-c", once], 2, restarts=3) == End(0)
    assert len(starts(tmp_path)) == 2


def test_what_fails_with_an_error_of_its_own_is_not_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the other, which waited for it, was the first to end."""
    monkeypatch.chdir(tmp_path)
    fails = STARTS + f'if os.environ["RANK"] == "1": sys.exit({LOST_RANK})\ntime.sleep(0.5); sys.exit(3)'
    assert run_ranks([sys.executable, "-c", fails], 2, restarts=3) == End(3)
    assert len(starts(tmp_path)) == 1


@given(st.integers(1, 96), st.integers(1, 96) | st.none())
def test_fewer_ranks_divide_what_more_did(count: int, least: int | None) -> None:
    found = fewer(count, least)
    assert count % found == 0
    if least is None or count == 1:
        assert found == count
    if found < count:
        assert least is not None
        assert found >= least
        assert not any(count % between == 0 for between in range(found + 1, count))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's death")
def test_a_killed_launcher_leaves_no_rank_behind(tmp_path: Path) -> None:
    launcher = launch(tmp_path, WAITS)
    ranks = ranks_of(tmp_path)
    launcher.kill()
    launcher.communicate()
    while any(is_alive(rank) for rank in ranks):
        time.sleep(0.01)
    assert (tmp_path / "0.saved").exists()
    assert (tmp_path / "1.saved").exists()


def test_a_process_is_a_rank_only_where_it_was_started_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert rank_here() is None
    monkeypatch.setenv("RANK", "1")
    assert rank_here() is None
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert rank_here() == 1
    assert count_processes(3) == 3
    assert count_processes(None) >= 1
