"""`hallmark sync`: bring MLflow up to date now, whatever it has missed. Doing it again changes nothing."""

import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from pipeline.common.errors import HallmarkError
from pipeline.common.layout import home
from pipeline.tracking.build import BUILD, describe_build, new_build_id
from pipeline.tracking.builds import Build, begin_build, complete_build, describe_status, is_over, read_builds
from pipeline.tracking.mirror import Mirror, is_off, mirror_lock, pid_file, spawn_mirror
from pipeline.tracking.stage_key import lock_hash

PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class SyncReport:
    """What a sync did.

    Attributes:
        uri: the store; None with HALLMARK_TRACKING=off.
        build: the build that the working directory shows now; None if nothing was built.
        status: how many of its stages ran, were restored or unchanged; or that it still runs.
        points: points of curves sent.
        warnings: what could not be kept, or why the store does not answer.
        reached: whether the store has everything now.
    """

    uri: str | None
    build: str | None
    status: str
    points: int
    warnings: tuple[str, ...]
    reached: bool

    def lines(self) -> list[str]:
        """The report as it is printed."""
        if self.uri is None:
            return ["tracking is off (HALLMARK_TRACKING)"]
        built = f"build {self.build}: {self.status}" if self.build else "nothing was built here yet"
        sent = f"{self.uri} has it all" if self.reached else f"{self.uri} does not answer; what it misses is kept"
        return [f"{built}; {self.points} new points; {sent}", *(f"warning: {warning}" for warning in self.warnings)]


def sync_build(build: str | None = None, root: Path | str = ".") -> SyncReport:
    """Send everything that the store in use lacks, and complete the rows of the build.

    A store that is away is a warning in the report and no error: tracking fails no build.

    Args:
        build: the build that ends now, whoever runs it. Without it: HALLMARK_BUILD, else the newest one; if
            `dvc.lock` has changed since that, a new one, for DVC brought all of it from its cache.
        root: the checkout.

    Raises:
        HallmarkError: another process is sending and does not come to an end.
    """
    if is_off():
        return SyncReport(None, build, "", 0, (), False)
    root = Path(root).resolve()
    build = build or os.environ.get(BUILD)
    with _take_over():
        record = _complete(build, root)
        mirror = Mirror()
        reached = mirror.send()
    if any("ended" not in other and not is_over(other) for other in read_builds()):
        spawn_mirror()  # another build goes on
    warnings = tuple(mirror.warnings) + ((mirror.failure,) if mirror.failure else ())
    status = describe_status(record["stages"]) if record and "ended" in record else "still running"
    return SyncReport(mirror.uri, record["build"] if record else None, status, mirror.points, warnings, reached)


def _complete(build: str | None, root: Path) -> Build | None:
    """Complete the builds that are over, and the one that is asked for, which is returned."""
    for record in read_builds():
        if "ended" not in record and record["build"] != build and is_over(record):
            complete_build(record)
    if build is not None:
        return complete_build(begin_build(_facts(build, root)))
    mine = [record for record in read_builds() if record["root"] == str(root)]
    if mine and ("ended" not in mine[-1] or mine[-1]["lock_hash"] == lock_hash(root)):
        return mine[-1]
    if lock_hash(root) is None:
        return None
    return complete_build(begin_build(_facts(new_build_id(), root)))


def _facts(build: str, root: Path) -> Build:
    known = [record for record in read_builds() if record["build"] == build]
    return known[0] if known else {**describe_build(), "build": build, "build_pid": os.getpid(), "root": str(root)}


def _take_over() -> FileLock:
    """Ask a mirror to end, and hold its lock."""
    lock = mirror_lock()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            lock.acquire(timeout=0.2)
            return lock
        except Timeout:
            _ask_mirror_to_end()
    raise HallmarkError(
        f"another process has been sending to MLflow for {PATIENCE_SECONDS:.0f} s",
        where=str(home() / "mirror.log"),
        fix="wait for it, then `hallmark sync`",
    )


def _ask_mirror_to_end() -> None:
    try:
        process = psutil.Process(int(pid_file().read_text()))
        if "pipeline.tracking.mirror" in process.cmdline():
            process.terminate()
    except (OSError, ValueError, psutil.Error):
        return  # it has just ended, or is another sync


def reap() -> list[str]:
    """End what has no living process: runs that MLflow shows as running, of builds of this machine.

    Returns:
        One line for each build that was closed.
    """
    dead = [record for record in read_builds() if "ended" not in record and is_over(record)]
    report = sync_build()
    lines = [f"build {record['build']} on {socket.gethostname()} was closed" for record in dead]
    return [*lines, *(f"warning: {warning}" for warning in report.warnings)]
