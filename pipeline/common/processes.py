"""Processes that do not outlive what started them."""

import ctypes
import os
import select
import signal
import sys
import threading

SHELLS = {"sh", "dash", "bash", "zsh", "ksh", "ash"}
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # <linux/prctl.h>


class Interrupted(BaseException):
    """SIGTERM or SIGINT asked this process to save and stop."""

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number
        super().__init__(signal.Signals(signal_number).name)


def die_with_parent(parent: int | None = None) -> None:
    """Ask Linux to send SIGTERM to this process when its parent dies; elsewhere do nothing.

    DVC starts stages through the shell. Some shells stay between the two (Debian's `sh`, which DVC takes where SHELL
    is not set, as in containers and under cron) and outlive a killed `dvc`: then the shell's parent is watched, too.

    Args:
        parent: the process id of the parent, if it is known: it may have died before this call.
    """
    if sys.platform != "linux":
        return
    parent = os.getppid() if parent is None else parent
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before the call
        os.kill(os.getpid(), signal.SIGTERM)
    name, grandparent = _name_and_parent(parent)
    if name in SHELLS:
        threading.Thread(target=_die_with, args=(grandparent,), daemon=True).start()


def read_stat(pid: int) -> list[str]:
    """Fields 2 and on of Linux's /proc/PID/stat: name, state, parent, ... (proc(5)).

    Raises:
        FileNotFoundError, ProcessLookupError: the process has ended.
    """
    with open(f"/proc/{pid}/stat") as handle:
        before, _, after = handle.read().rpartition(")")  # a name may hold spaces and brackets
    return [before.partition("(")[2], *after.split()]


def _name_and_parent(pid: int) -> tuple[str, int]:
    """A Linux process's name and its parent's id; ("", 0) if it has ended."""
    try:
        name, _, parent, *_ = read_stat(pid)
    except (FileNotFoundError, ProcessLookupError):
        return "", 0
    return name, int(parent)


def _die_with(pid: int) -> None:
    """Wait until process `pid` has ended, then send SIGTERM to this process."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        os.kill(os.getpid(), signal.SIGTERM)
        return
    select.select([descriptor], [], [])
    os.close(descriptor)
    os.kill(os.getpid(), signal.SIGTERM)


def become_subreaper() -> None:
    """Ask Linux to make orphaned descendants children of this process, so that it can wait for them."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)


def raise_on_signals() -> None:
    """Turn SIGTERM and SIGINT into `Interrupted`, so that `finally` blocks run and files are closed.

    Only the first SIGTERM counts: a stage whose whole process group is stopped gets another one when its parent
    dies (`die_with_parent`), and that must not break the saving.
    """

    def interrupt(signal_number: int, _frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Interrupted(signal_number)

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGINT, interrupt)


def is_alive(pid: int) -> bool:
    """Whether a process with this id exists and is not a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    if sys.platform == "linux":
        try:
            return read_stat(pid)[1] != "Z"
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            return False
    return True


def peak_memory_bytes() -> int:
    """The largest resident memory that this process has had."""
    if sys.platform == "win32":
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes on Linux
