"""One stage as one process group that never outlives the flow.

    flow process (a task's thread)  StageProcesses.run
      guard: python -m flows.stage  leads the group, holds the GPU slot, told by Linux when the flow is dead
        dvc --wait-for-lock repro --single-item STAGE
          the stage's own command

The guard starts nothing heavy. When it is asked to stop, or the flow dies, it asks its whole group to stop, waits
for the last process of it, and kills what is left. If the guard itself is killed, DVC and the stage die with it.
"""

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from flows.gpu import gpu_slot
from pipeline.common.errors import HallmarkError
from pipeline.common.processes import Interrupted, become_subreaper, die_with_parent, raise_on_signals

Outcome = Literal["ran", "restored", "unchanged"]

CODE_ROOT = Path(__file__).resolve().parents[1]
GRACE_SECONDS = 20.0  # to save a checkpoint; Prefect kills a cancelled flow after 30
TAIL_LINES = 20
ADVICE = (  # of DVC, after every stage, to a person at a terminal
    "To track the changes with git",
    "git add ",
    "To enable auto staging",
    "dvc config core.autostage",
    "Use `dvc push`",
)


class StageError(Exception):
    """A stage ended with an error.

    Args:
        known: the stage itself said what is wrong, so that trying again would not mend it.
    """

    def __init__(self, name: str, code: int, tail: list[str], known: bool) -> None:
        self.name, self.code, self.known = name, code, known
        said = [number for number, line in enumerate(tail) if line.startswith(f"hallmark: {name}: ")]
        reason = tail[said[0] :] if said else [line for line in tail if line][-1:]
        reason = [line for line in reason if not (said and line.startswith("ERROR: "))]  # DVC only repeats it
        super().__init__("\n".join([f"{name} failed (exit status {code})", *reason]))


class StageStoppedError(Exception):
    """The flow is stopping: the stage was stopped with it, or was not started."""


@dataclass
class StageProcesses:
    """The stage processes of one flow run.

    Args:
        root: the folder of the DVC project to build in.
        home: this machine's state (`layout.home()`), shared by all builds.
        environment: what to add to the environment of the stages.
    """

    root: Path
    home: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    stopping: bool = False
    _running: set[subprocess.Popen[str]] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, name: str, *, gpu: bool, on_line: Callable[[str], object]) -> Outcome:
        """Bring one stage up to date; `on_line` gets each line it prints, as it comes.

        Raises:
            StageError: it ended with an error.
            StageStoppedError: `stop` was called.
        """
        process = self._start(name, gpu)
        heard = _Listener(name)
        try:
            assert process.stdout is not None
            for line in process.stdout:
                heard.hear(line.rstrip())
                if not line.strip().startswith(ADVICE) and line.strip():
                    on_line(line.rstrip())
            code = process.wait()
        finally:
            with self._lock:
                self._running.discard(process)
        if self.stopping:
            raise StageStoppedError(f"{name} was stopped with the flow")
        if code != 0:
            raise StageError(name, code, list(heard.tail), heard.known)
        return heard.outcome

    def stop(self) -> None:
        """Stop every stage and let none start; returns when all their processes are gone."""
        with self._lock:
            self.stopping = True
            running = list(self._running)
        for process in running:
            process.terminate()
        deadline = time.monotonic() + GRACE_SECONDS + 2
        for process in running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)

    def _start(self, name: str, gpu: bool) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "flows.stage", name, "--root", str(self.root), "--parent", str(os.getpid())]
        if gpu:
            command += ["--gpu", str(self.home)]
        with self._lock:
            if self.stopping:
                raise StageStoppedError(f"{name} was not started: the flow is stopping")
            process = subprocess.Popen(
                command,
                cwd=CODE_ROOT,
                env={**os.environ, **self._base_environment(), **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            self._running.add(process)
        return process

    def _base_environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        return {"PATH": path, "PYTHONUNBUFFERED": "1", "HALLMARK_HOME": str(self.home)}


@dataclass
class _Listener:
    """Reads from a stage's own lines what became of it."""

    name: str
    outcome: Outcome = "ran"
    known: bool = False
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))

    def hear(self, line: str) -> None:
        self.tail.append(line)
        if line.startswith(f"hallmark: {self.name}: "):
            self.known = "interrupted by" not in line
        elif line.startswith(f"Stage '{self.name}' is cached"):
            self.outcome = "restored"
        elif line.startswith((f"Stage '{self.name}' didn't change", f"'{self.name}' didn't change")):
            self.outcome = "unchanged"


def guard(name: str, root: Path, parent: int, gpu: Path | None) -> int:
    """Run one stage as the leader of its process group.

    Returns:
        The exit status of DVC, or 128 + the number of the signal that stopped it.
    """
    raise_on_signals()
    try:
        die_with_parent(parent)
        become_subreaper()
        if os.getpgrp() != os.getpid():  # started by hand
            os.setpgid(0, 0)
        with gpu_slot(gpu, name) if gpu else nullcontext():
            command = [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", name]
            dvc = subprocess.Popen(command, cwd=root, preexec_fn=partial(die_with_parent, os.getpid()))
            try:
                return dvc.wait()
            finally:
                _end_group()
    except Interrupted as error:
        return 128 + error.signal_number


def _end_group() -> None:
    """Ask all others of this process group to stop; wait for the last one; after the grace, kill them."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the request reaches this process, too
    os.killpg(0, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while _group_lives():
        if time.monotonic() > deadline:
            os.killpg(0, signal.SIGKILL)
        time.sleep(0.05)


def _group_lives() -> bool:
    """Whether this group has other processes. Orphans of the stage are children of the guard (`become_subreaper`)."""
    try:
        while os.waitpid(0, os.WNOHANG)[0]:  # 0: any child of this group; collects those that ended
            pass
    except ChildProcessError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m flows.stage", description=__doc__.splitlines()[0])
    parser.add_argument("name", help="the stage, as in dvc.yaml")
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="the DVC project to build in")
    parser.add_argument("--parent", type=int, default=os.getppid(), help="the process that this one dies with")
    parser.add_argument("--gpu", type=Path, help="take the GPU slot kept in this folder")
    options = parser.parse_args()
    try:
        sys.exit(guard(options.name, options.root, options.parent, options.gpu))
    except HallmarkError as error:
        sys.exit(f"hallmark: {options.name}: {error}")


if __name__ == "__main__":
    main()
