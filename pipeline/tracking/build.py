"""Which build a stage run belongs to: one `dvc repro`, or one flow that starts several.

A flow (or make) names its build by `build_environment()`. Otherwise the build is the `dvc` process that started
the stage, so that all stages of one `dvc repro` share it without any file or server.
"""

import hashlib
import os
import secrets
import socket
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from pipeline.common.processes import read_stat

BUILD, BUILD_PID = "HALLMARK_BUILD", "HALLMARK_BUILD_PID"
DECISIVE_PATHS = ("pipeline", "dvc.yaml", "params.yaml", "constraints.txt")  # what Git tracks and a build depends on


def new_build_id() -> str:
    """A build id that sorts by time: 20260131-093015-4f2a."""
    return time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + secrets.token_hex(2)


def build_environment(build: str | None = None) -> dict[str, str]:
    """Environment variables that make every stage started below this process part of one build.

    The build lasts as long as this process: its MLflow rows are completed when it ends, or by `sync_build`.
    """
    return {BUILD: build or new_build_id(), BUILD_PID: str(os.getpid())}


@cache
def describe_build() -> dict[str, Any]:
    """The build that this process works for, as every journal's start event carries it.

    Returns:
        "build": its id; "build_pid": the process whose end is the build's end; "host": the machine of that process;
        "root": the checkout that is built, which relative paths belong to; "git_commit": str, or None outside Git;
        "git_dirty": whether what decides a build differs from the commit.
    """
    owner = _owner()
    build = os.environ.get(BUILD) or _derived_id(owner)
    return {"build": build, "build_pid": owner, "host": socket.gethostname(), "root": str(Path.cwd()), **git_state()}


def _owner() -> int:
    """The process whose end is the build's end: the one named, else the nearest `dvc` above, else this one."""
    if named := os.environ.get(BUILD_PID):
        return int(named)
    for process in psutil.Process().parents():
        try:
            if is_dvc(process.cmdline()):
                return process.pid
        except psutil.Error:
            continue
    return os.getpid()


def is_dvc(command: list[str]) -> bool:
    """Whether a command line is a run of DVC: `dvc repro`, `python .../bin/dvc repro`, `python -m dvc repro`."""
    names = [Path(part).stem for part in command[:2]]
    return "dvc" in names or command[1:3] == ["-m", "dvc"]


def _derived_id(pid: int) -> str:
    """The same id for every stage below one process, and another for any other process, ever.

    Linux counts a process's start in ticks since boot. Its time of day would drift with the clock.
    """
    if sys.platform == "linux":
        start = read_stat(pid)[20]  # field 22
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    else:
        start, boot = str(psutil.Process(pid).create_time()), ""
    identity = f"{socket.gethostname()} {boot} {pid} {start}"
    return "dvc-" + hashlib.sha256(identity.encode()).hexdigest()[:12]


def git_state() -> dict[str, Any]:
    """The commit of the working directory, and whether what decides a build differs from it.

    `dvc.lock` and the metrics do not count: a build writes them.
    """
    command = ["git", "status", "--porcelain=v2", "--branch", "--", *DECISIVE_PATHS]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        return {"git_commit": None, "git_dirty": False}
    commits = [line.split()[2] for line in lines if line.startswith("# branch.oid ")]
    commit = commits[0] if commits and commits[0] != "(initial)" else None
    return {"git_commit": commit, "git_dirty": any(not line.startswith("#") for line in lines)}


def is_running(pid: int, seen_at: float, host: str | None = None) -> bool:
    """Whether the process that had this id at the time `seen_at` (seconds since the epoch) still runs.

    A process that began later only reuses the id. On another machine nobody can tell: it counts as running for an
    hour after it was seen.
    """
    if host is not None and host != socket.gethostname():
        return time.time() - seen_at < 3600
    try:
        process = psutil.Process(pid)
        return process.create_time() <= seen_at + 2 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.AccessDenied:
        return True
    except psutil.Error:
        return False
