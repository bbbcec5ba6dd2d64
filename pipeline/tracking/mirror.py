"""The mirror: one quiet process that sends journals to MLflow while a build runs, and ends soon after it.

    stage -> journal.jsonl -> mirror -> MLflow

Stages only write files and start the mirror if none runs; they neither import MLflow nor wait for it. A store that is
away costs one warning. The mirror tries again, and so does the next build or `hallmark sync`: the files are the truth.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from pipeline.common.environment import be_quick, be_quiet
from pipeline.common.errors import HallmarkError
from pipeline.common.files import read_json, write_json
from pipeline.common.layout import home
from pipeline.tracking.build import describe_build
from pipeline.tracking.builds import begin_build, complete_build, is_over, read_builds
from pipeline.tracking.runs import journal_folders
from pipeline.tracking.system import Sampler

if TYPE_CHECKING:
    from pipeline.tracking.mlflow_store import Store
    from pipeline.tracking.sender import JournalSender

TRACKING = "HALLMARK_TRACKING"
POLL_SECONDS = 1.0
RETRY_SECONDS = (2.0, 5.0, 10.0, 30.0, 60.0)
LOG_BYTES = 1 << 20
QUIET_MACHINE = 10  # added to the process's niceness: stages come first


def is_off() -> bool:
    """Whether the user wants no tracking: HALLMARK_TRACKING=off."""
    return os.environ.get(TRACKING, "").lower() in ("off", "false", "0", "no")


def mirror_lock() -> FileLock:
    """Held by the one process that sends: the mirror, or a sync."""
    home().mkdir(parents=True, exist_ok=True)
    return FileLock(home() / "mirror.lock")


def log_file() -> Path:
    return home() / "mirror.log"


def pid_file() -> Path:
    return home() / "mirror.pid"


def start_mirror() -> None:
    """Begin the build's record and start the mirror unless one runs. Never raises: tracking cannot fail a stage."""
    try:
        build = begin_build(describe_build())["build"]
        if is_off():
            return
        _repeat_warning(build)
        with mirror_lock().acquire(timeout=0):
            pass
        spawn_mirror()
    except Timeout:
        return  # one runs already
    except (OSError, ValueError, KeyError) as error:
        print(f"hallmark: tracking: the mirror did not start ({error}); later: hallmark sync", file=sys.stderr)


def spawn_mirror() -> None:
    """Start the mirror process. Where another one runs, it ends at once."""
    log = log_file()
    fresh = log.exists() and log.stat().st_size > LOG_BYTES
    with log.open("w" if fresh else "a") as output:
        subprocess.Popen(
            [sys.executable, "-m", "pipeline.tracking.mirror"],
            env={**os.environ, "HALLMARK_HOME": str(home())},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # a signal to the stage's group is not for the mirror: it ends by itself
        )


def _warning_file() -> Path:
    return home() / "mirror-warning.json"


def warn(message: str) -> None:
    """Keep a warning for the next stage to print, once for each build."""
    path = _warning_file()
    told = read_json(path)["told"] if path.exists() else []
    write_json(path, {"message": message, "told": told})


def _repeat_warning(build: str) -> None:
    path = _warning_file()
    if not path.exists():
        return
    warning = read_json(path)
    if build not in warning["told"]:
        print(f"hallmark: tracking: {warning['message']}", file=sys.stderr, flush=True)
        write_json(path, {**warning, "told": [*warning["told"], build]})


class Mirror:
    """Sends everything on this machine that the store lacks.

    Attributes:
        points: points of curves sent so far.
        warnings: what could not be kept, in words.
        failure: why the store does not answer, or None.
    """

    def __init__(self) -> None:
        self.store: Store | None = None
        self.uri: str | None = None
        self.senders: dict[Path, JournalSender] = {}
        self.settled: dict[Path, tuple[int, ...]] = {}  # sizes of the files of which nothing is left to send
        self.points = 0
        self.warnings: list[str] = []
        self.failure: str | None = None

    def send(self) -> bool:
        """Send journals, then builds that have ended; False if the store does not answer."""
        from pipeline.tracking.mlflow_store import TRACKER_ERRORS, open_store, tracking_uri

        try:
            if self.store is None:
                self.uri = tracking_uri()
                self.store = open_store()
                print(f"{_now()} sends to {self.store.uri}", flush=True)
            self._send_journals(self.store)
            self._send_builds(self.store)
        except HallmarkError as error:
            self._fail(error)
            return False
        except TRACKER_ERRORS as error:
            self._fail(HallmarkError(f"sending to MLflow failed: {error}", where=self.uri))
            return False
        self.failure = None
        _warning_file().unlink(missing_ok=True)
        return True

    def _send_journals(self, store: "Store") -> None:
        from pipeline.tracking.sender import JournalSender, is_all_sent, journal_sizes

        for folder in journal_folders():
            sizes = journal_sizes(folder)
            if self.settled.get(folder) == sizes:
                continue
            if not is_all_sent(folder, store):
                sender = self.senders.get(folder) or JournalSender(store, folder)
                self.senders[folder] = sender
                self.points += sender.pump()
                self._tell(sender.warnings)
            if is_all_sent(folder, store):
                self.senders.pop(folder, None)
                self.settled[folder] = sizes

    def _send_builds(self, store: "Store") -> None:
        from pipeline.tracking.build_sender import send_build

        for record in read_builds():
            if "ended" in record and store.identity not in record["sent"]:
                self._tell(send_build(store, record))

    def _tell(self, warnings: list[str]) -> None:
        for warning in warnings:
            print(f"{_now()} {warning}", flush=True)
        self.warnings += warnings
        warnings.clear()

    def _fail(self, error: HallmarkError) -> None:
        self.senders.clear()  # each is made anew from its file
        self.settled.clear()
        self.store = None
        if self.failure is None:
            self.failure = str(error).strip()
            print(f"{_now()} {self.failure}", flush=True)
            warn(f"{self.failure}\n  what it misses is kept in {home()} and sent when it is back (or: hallmark sync)")


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


class _Loop:
    """The mirror process: samples, sends, completes builds, and ends when there is nothing left to wait for."""

    def __init__(self) -> None:
        self.mirror, self.sampler = Mirror(), Sampler()
        self.failures, self.next_try = 0, 0.0
        self.asked_to_end = False
        signal.signal(signal.SIGTERM, self._ask_to_end)

    def _ask_to_end(self, _signal: int, _frame: FrameType | None) -> None:
        self.asked_to_end = True

    def run(self) -> None:
        while True:
            waiting = self._turn()
            wake = time.monotonic() + POLL_SECONDS
            while waiting and not self.asked_to_end and time.monotonic() < wake:
                time.sleep(0.1)
            if self.asked_to_end or not waiting:
                return

    def _turn(self) -> bool:
        """One round; True while a stage or a build is alive."""
        running = self.sampler.running()
        self.sampler.sample(running)
        alive = bool(running)
        for record in read_builds():
            if "ended" in record:
                continue
            if is_over(record):
                complete_build(record)
            else:
                alive = True
        if not alive or time.time() >= self.next_try:
            self._send()
        return alive

    def _send(self) -> None:
        if self.mirror.send():
            self.failures = 0
            return
        wait = RETRY_SECONDS[min(self.failures, len(RETRY_SECONDS) - 1)]
        self.failures, self.next_try = self.failures + 1, time.time() + wait


def main() -> None:
    """Mirror until every build has ended; at once done if another mirror runs."""
    be_quiet()
    be_quick()
    if hasattr(os, "nice"):
        os.nice(QUIET_MACHINE)
    while True:
        try:
            with mirror_lock().acquire(timeout=0):
                pid_file().write_text(str(os.getpid()))
                loop = _Loop()
                loop.run()
                pid_file().unlink(missing_ok=True)
        except Timeout:
            return
        # A stage that began while the lock was being given back has seen it held, and started no mirror.
        if loop.asked_to_end or not loop.sampler.running():
            return


if __name__ == "__main__":
    main()
