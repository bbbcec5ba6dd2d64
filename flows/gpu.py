"""The GPU slot of this machine: a lock of the operating system, so that it is free once its holder is dead.

A lease of the Prefect server would do the opposite of what is wanted: it cancels a healthy training while the
server is away, and outlives a machine that crashed.
"""

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.common.files import read_json, write_json
from pipeline.common.processes import is_alive

LEFTOVER_SECONDS = 30.0  # what a dead holder's training gets to save and stop


@contextmanager
def gpu_slot(folder: Path, holder: str) -> Iterator[None]:
    """Hold the slot; waits, and says for whom, while another process group has it.

    Args:
        folder: where `gpu.lock` and `gpu.json` (its holder) are kept.
        holder: what others read while they wait, such as a stage's name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "gpu.json"
    with (folder / "gpu.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for the GPU: {_describe(note)} has it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        _wait_for_leftovers(note)
        write_json(note, {"process_group": os.getpgrp(), "holder": holder})
        try:
            yield
        finally:
            note.unlink(missing_ok=True)


def _describe(note: Path) -> str:
    try:
        content = read_json(note)
    except (FileNotFoundError, ValueError):
        return "another process"
    return f"{content['holder']} (process group {content['process_group']})"


def _wait_for_leftovers(note: Path) -> None:
    """The last holder was killed: its group may still be on the GPU, saving. Wait for it, then kill it."""
    try:
        group = int(read_json(note)["process_group"])
    except FileNotFoundError:
        return
    deadline = time.monotonic() + LEFTOVER_SECONDS
    while is_leftover(group):
        if time.monotonic() > deadline:
            os.killpg(group, signal.SIGKILL)
        time.sleep(0.1)


def is_leftover(group: int) -> bool:
    """Whether processes of this group live on without its leader. With a living leader, the number is in new use."""
    if group == os.getpgrp() or is_alive(group):
        return False
    try:
        os.killpg(group, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
