"""A worker on this machine: clear the runs that died here, then become `prefect worker start`.

    python -m flows.worker --pool gpu
    python -m flows.worker --pool gpu --limit 1        (what it does not know is for Prefect)

A machine that crashes, or a worker and a flow that are killed together, leave a run that Prefect shows as running for
ever, and that holds a slot of the pool. The automation on missing heartbeats (`flows.deploy`) ends it after 90 s where
a server runs; the next worker here ends it at once.
"""

import argparse
import os
import signal
import socket
import sys
import time
from pathlib import Path

import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Cancelled, Crashed, Scheduled

from flows.command import check_server
from flows.deploy import POOLS, ensure_pool
from flows.job import CODE_ROOT, WORKER_PID
from pipeline.common.environment import be_quiet
from pipeline.common.errors import HallmarkError
from pipeline.common.processes import is_alive

AFTER_DEATH = {StateType.PENDING: Scheduled, StateType.RUNNING: Crashed, StateType.CANCELLING: Cancelled}
CLAIM_SECONDS = 10.0  # a worker takes a run, and says so, well within this


def clear_dead_runs(pool: str) -> list[str]:
    """End the unfinished runs of this pool whose process was on this machine and is dead; returns a line for each.

    A run that never began goes back to the queue; one that ran is marked as crashed, or as cancelled if that was asked.
    """
    lines = []
    with get_client(sync_client=True) as client:
        deadline = time.monotonic() + CLAIM_SECONDS
        runs = _unfinished(client, pool)
        while any(is_nobodys(run) for run in runs) and time.monotonic() < deadline:
            time.sleep(0.5)  # another worker may be taking it at this moment
            runs = _unfinished(client, pool)
        for run in runs:
            if run.state is not None and (is_dead(run) or is_nobodys(run)):
                state = AFTER_DEATH[run.state.type](message="its process is dead")
                client.set_flow_run_state(run.id, state, force=True)
                lines.append(f"cleared run {run.name}: its process is dead, now {state.type.value.lower()}")
    return lines


def _unfinished(client: SyncPrefectClient, pool: str) -> list[FlowRun]:
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(AFTER_DEATH)))),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
    )


def worker_name() -> str:
    """Names this machine and process, so that its runs can be told from those of other machines."""
    return f"{socket.gethostname()}-{os.getpid()}"


def is_nobodys(run: FlowRun) -> bool:
    """Whether a run was taken by a worker that died before it could say which one it was."""
    return run.state is not None and run.state.type == StateType.PENDING and "prefect.worker.name" not in run.labels


def is_dead(run: FlowRun) -> bool:
    """Whether a run was started on this machine by a worker of ours, and has no process any more."""
    host, _, worker = str(run.labels.get("prefect.worker.name", "")).rpartition("-")
    if host != socket.gethostname() or not worker.isdigit():
        return False
    if not run.infrastructure_pid:  # claimed, and not started yet
        return not is_alive(int(worker))
    try:
        environment = psutil.Process(int(run.infrastructure_pid)).environ()
    except psutil.AccessDenied:
        return False
    except psutil.NoSuchProcess:
        return True
    return environment.get("PREFECT__FLOW_RUN_ID") != str(run.id)  # else the number is in new use


def start_worker(pool: str, more: list[str]) -> None:
    """Become the Prefect worker. Its runs find this checkout, this Python, and their worker's process id."""
    environment = {
        **os.environ,
        WORKER_PID: str(os.getpid()),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(CODE_ROOT), os.environ.get("PYTHONPATH")])),
    }
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # a shell's `&` makes its children ignore the first two
    command = ["-m", "prefect", "worker", "start", "--pool", pool, "--type", "process", "--name", worker_name(), *more]
    os.execve(sys.executable, [sys.executable, *command], environment)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m flows.worker", description="Start a worker on this machine.")
    parser.add_argument("--pool", choices=sorted(POOLS), required=True, help="the work pool to take runs from")
    options, more = parser.parse_known_args()
    be_quiet()
    try:
        check_server()
    except HallmarkError as error:
        sys.exit(f"hallmark: {error}")
    with get_client(sync_client=True) as client:
        print(ensure_pool(client, options.pool), flush=True)
    for line in clear_dead_runs(options.pool):
        print(line, flush=True)
    start_worker(options.pool, more)


if __name__ == "__main__":
    main()
