"""Starts the ranks of a training on this machine, watches them, starts them again if asked, and ends with them.

Each rank gets the environment that `torchrun` gives (RANK, LOCAL_RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), so a door
that runs under one runs under the other. Here the ranks stay in the process group of the stage, where Ctrl-C, the GPU
slot and a stopped flow find them; `torchrun` gives each a session of its own, out of their reach.
"""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from pipeline.common.errors import HallmarkError
from pipeline.common.ports import LOOPBACK, free_port
from pipeline.common.processes import Interrupted, die_with_parent

SETTLE_SECONDS = 3.0  # after one rank's failure: the others mostly end by themselves, and say more of it
GRACE_SECONDS = 10.0  # then, after SIGTERM: one that waits for a lost rank on a GPU hears nothing
POLL_SECONDS = 0.05
LOST_RANK = 75  # exit status after a LostRankError: EX_TEMPFAIL of <sysexits.h>, "try again"


class LostRankError(HallmarkError):
    """Another rank of the training died, or this one's device. To start again is all there is to do.

    Attributes:
        is_own: it is this rank that was lost.
    """

    def __init__(self, reason: str, is_own: bool = False) -> None:
        self.is_own = is_own
        lost = "a fault of this rank's device" if is_own else "the loss of another rank"
        super().__init__(f"interrupted by {lost} ({reason})", fix="`dvc repro` goes on from the last checkpoint")


def rank_here() -> int | None:
    """The rank of this process, from its environment; None where nothing started it as one."""
    return int(os.environ["RANK"]) if {"RANK", "WORLD_SIZE"} <= os.environ.keys() else None


def count_processes(setting: int | None) -> int:
    """How many ranks `pretrain.processes` stands for on this machine; None: one for each GPU, and at least one."""
    if setting is not None:
        return setting
    import torch

    return max(1, torch.cuda.device_count())


@dataclass(frozen=True)
class End:
    """How a run of ranks ended.

    Attributes:
        code: the exit status of the first rank that failed, 128 + the signal's number if it was killed, or 0.
        said: of a killed rank what there is to say: it could not say it itself.
        lost: a rank died, and the others could do nothing for it: another start may go better.
    """

    code: int
    said: str | None = None
    lost: bool = False


def run_ranks(command: Sequence[str], count: int, restarts: int = 0, least: int | None = None) -> End:
    """Run `command` as `count` ranks until all have ended. When one fails, the others are stopped.

    After a death or a LostRankError all start again, up to `restarts` times, and find one another at a fresh port. Any
    other error would come again, and is left alone.

    Call `raise_on_signals` first: SIGTERM and SIGINT are handed on, and the ranks save and stop.

    Args:
        command: of one rank; it goes on from what it had saved.
        count: of all.
        restarts: how often to start again.
        least: start again as fewer, but at least so many; None: as many.
    """
    try:
        end = _run_once(command, count)
        for restart in range(1, restarts + 1):
            if not end.lost:
                break
            count = fewer(count, least)
            what = end.said or "interrupted by the loss of a rank"
            print(f"hallmark: {what}; restart {restart} of {restarts}, on {count} ranks", file=sys.stderr, flush=True)
            end = _run_once(command, count)
        return end
    except Interrupted as error:
        return End(128 + error.signal_number)


def fewer(count: int, least: int | None) -> int:
    """The next smaller number that divides `count`, since it divides a batch, too; `count` if that is below `least`."""
    below = next((number for number in range(count - 1, 0, -1) if count % number == 0), count)
    return below if least is not None and below >= least else count


def _run_once(command: Sequence[str], count: int) -> End:
    ranks = _start(command, count)
    try:
        return _watch(ranks)
    except Interrupted:
        _signal(ranks, signal.SIGTERM)
        _wait(ranks)  # rank 0 may be writing a checkpoint: whoever is in a hurry sends SIGKILL
        raise
    finally:
        _signal(ranks, signal.SIGKILL)


def _start(command: Sequence[str], count: int) -> list[subprocess.Popen[bytes]]:
    threads = max(1, (os.cpu_count() or 1) // count)
    shared = {
        "OMP_NUM_THREADS": str(threads),
        "GLOO_SOCKET_IFNAME": "lo" if sys.platform == "linux" else "lo0",  # a host's own name may not resolve
        **os.environ,
        "MASTER_ADDR": LOOPBACK,
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
    }
    return [
        subprocess.Popen(
            command,
            env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            preexec_fn=partial(die_with_parent, os.getpid()) if sys.platform == "linux" else None,
        )
        for rank in range(count)
    ]


def _watch(ranks: list[subprocess.Popen[bytes]]) -> End:
    codes = [process.poll() for process in ranks]
    while None in codes and not any(codes):
        time.sleep(POLL_SECONDS)
        codes = [process.poll() for process in ranks]
    code = min((code for code in codes if code), default=0)  # of a killed rank, if there is one: it is the cause
    if code in (0, 128 + signal.SIGTERM, 128 + signal.SIGINT):  # all agreed to stop, and rank 0 may still be saving
        _wait(ranks)
        return End(code)
    _wait(ranks, SETTLE_SECONDS)
    if code == LOST_RANK:  # perhaps of one with an error of its own, which took longer to end
        codes = [process.poll() for process in ranks]
        code = min(code for code in codes if code)
    failed = codes.index(code)
    _signal(ranks, signal.SIGTERM)
    _wait(ranks, GRACE_SECONDS)
    if code > 0:
        return End(code, lost=code == LOST_RANK)
    killed = f"{signal.Signals(-code).name}, process {ranks[failed].pid}"
    return End(128 - code, f"interrupted by the death of rank {failed} ({killed})", lost=True)


def _wait(ranks: list[subprocess.Popen[bytes]], seconds: float = math.inf) -> None:
    deadline = time.monotonic() + seconds
    while any(process.poll() is None for process in ranks) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def _signal(ranks: list[subprocess.Popen[bytes]], number: signal.Signals) -> None:
    for process in ranks:
        process.send_signal(number)  # does nothing to one that has ended
