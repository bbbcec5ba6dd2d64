"""Which runs a new worker may call dead: only those of this machine, and only by their own process."""

import os
import socket
import subprocess
import sys
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun, State, StateType

from flows.worker import is_dead, is_nobodys, worker_name

DEAD = 2**22 + 1  # above any process id that Linux gives


def make_run(worker: str | None, pid: int | None = None, state: StateType = StateType.RUNNING) -> FlowRun:
    labels = {"prefect.worker.name": worker} if worker else {}
    return FlowRun(
        id=uuid4(),
        flow_id=uuid4(),
        name="run",
        labels=labels,
        infrastructure_pid=str(pid) if pid else None,
        state=State(type=state),
    )


def test_a_dead_process_of_this_machine_is_dead() -> None:
    assert is_dead(make_run(worker_name(), DEAD))
    assert is_dead(make_run(f"{socket.gethostname()}-{DEAD}"))  # its worker died before it began
    assert not is_dead(make_run(worker_name()))  # this worker lives, and is about to start it


def test_other_machines_are_left_alone() -> None:
    assert not is_dead(make_run("elsewhere-12", DEAD))
    assert not is_dead(make_run("ProcessWorker 5f", DEAD))
    assert not is_dead(make_run(None, DEAD))


def test_a_process_id_in_new_use_is_told_from_the_run() -> None:
    run = make_run(worker_name(), os.getpid())
    assert is_dead(run)
    script = [sys.executable, "-c", "print(flush=True); input()"]
    environment = {**os.environ, "PREFECT__FLOW_RUN_ID": str(run.id)}
    process = subprocess.Popen(script, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()  # it has its own environment now
    run.infrastructure_pid = str(process.pid)
    assert not is_dead(run)
    process.kill()
    process.communicate()
    assert is_dead(run)


@pytest.mark.parametrize(
    ("worker", "state", "expected"),
    [
        (None, StateType.PENDING, True),
        (None, StateType.RUNNING, False),  # started by hand
        ("a-1", StateType.PENDING, False),
    ],
)
def test_a_run_that_no_worker_owns_up_to(worker: str | None, state: StateType, expected: bool) -> None:
    assert is_nobodys(make_run(worker, state=state)) is expected
