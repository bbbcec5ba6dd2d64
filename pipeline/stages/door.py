"""What every stage does around its work: settings, stage key, journal, signals, errors, timing.

A door is a module with `main(stage)` and, at its end, `run_stage(main, NAME)`, or `run_on_ranks` if it can be run by
several processes together. Of those, rank 0 speaks, keeps the journal and writes all files.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from pipeline.common.environment import be_quick, be_quiet
from pipeline.common.errors import HallmarkError, allowed
from pipeline.common.files import write_json
from pipeline.common.layout import metrics_file, stage_home
from pipeline.common.params import Params, Task, load_params
from pipeline.common.processes import Interrupted, die_with_parent, peak_memory_bytes, raise_on_signals
from pipeline.tracking.journal import Journal
from pipeline.training.launch import LOST_RANK, LostRankError, count_processes, rank_here, run_ranks


@dataclass(frozen=True)
class Stage:
    """One stage run, as its door sees it."""

    name: str  # as in dvc.yaml: `pretrain`, `finetune@library`
    key: str
    description: dict[str, Any]
    params: Params
    journal: Journal
    timings: dict[str, float] = field(default_factory=dict)  # kept in timing.json: speeds vary, so they are no outputs
    rank: int = 0

    @property
    def task_name(self) -> str:
        return self.name.partition("@")[2]

    @property
    def task(self) -> Task:
        if self.task_name not in self.params.tasks:
            raise HallmarkError(
                f"there is no task {self.task_name!r}; {allowed(self.params.tasks)}", where="params.yaml: tasks"
            )
        return self.params.tasks[self.task_name]

    @cached_property
    def scratch(self) -> Path:
        """An ignored folder that belongs to this stage key alone: a killed training resumes from it."""
        folder = stage_home(self.key) / "scratch"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def announce(self, decisions: Mapping[str, Any]) -> None:
        """Print what was derived or decided, and record it."""
        for name, value in decisions.items():
            print(f"{self.name}  {name}: {value}", flush=True)
        self.journal.note(decisions)

    def write_metrics(self, values: Mapping[str, Any]) -> None:
        """Write the stage's DVC metrics file and put its numbers into the journal. No timings: they are not outputs."""
        write_json(metrics_file(self.name), values)
        self.journal.summary(dict(flatten(values)))


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    """The numbers of nested metrics as dotted names: {"test": {"accuracy": 1}} -> [("test.accuracy", 1.0)]."""
    found: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += flatten(value, f"{prefix}{name}.")
        elif isinstance(value, int | float):
            found.append((f"{prefix}{name}", float(value)))
    return found


def run_on_ranks(main: Callable[[Stage], None], name: str, processes: Callable[[Params], int | None]) -> NoReturn:
    """Run a door in as many processes as the settings say, or as one of those that `torchrun` started.

    Args:
        main: does the work of one rank.
        name: the stage's name as in dvc.yaml and of its module.
        processes: picks the setting.
    """
    if rank_here() is not None:
        run_stage(main, name)
    try:
        params = load_params()
        count = count_processes(processes(params))
    except HallmarkError as error:
        sys.exit(f"hallmark: {name}: {error}")
    if count == 1:
        run_stage(main, name)
    die_with_parent()
    raise_on_signals()
    command = [sys.executable, "-m", f"pipeline.stages.{name}"]
    end = run_ranks(command, count, params.compute.restarts, params.compute.min_processes)
    if end.said:
        print(f"hallmark: {name}: {end.said}\n  next: `dvc repro` goes on from the last checkpoint", file=sys.stderr)
    sys.exit(end.code)


def run_stage(main: Callable[[Stage], None], name: str) -> NoReturn:
    """Run a door as the process's whole work; exits non-zero on a failure.

    Args:
        main: does the work.
        name: the stage's name as in dvc.yaml.
    """
    die_with_parent()
    raise_on_signals()
    be_quiet()
    be_quick()
    rank = rank_here() or 0
    if rank:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 as long as the process
    prefix = f"hallmark: {name}:" if rank == 0 else f"hallmark: {name} (rank {rank}):"
    try:
        stage = _open_stage(name, rank)
    except HallmarkError as error:
        sys.exit(f"{prefix} {error}")
    started = time.time()
    status, message, code = "finished", "", 0
    try:
        main(stage)
    except Interrupted as error:
        status, message, code = "interrupted", str(error), 128 + error.signal_number
        if rank == 0:
            print(f"{prefix} interrupted by {error}; `dvc repro` goes on from here", file=sys.stderr)
    except LostRankError as error:
        status, message, code = "interrupted", str(error), LOST_RANK
        if rank == 0 or error.is_own:
            print(f"{prefix} {error}", file=sys.stderr)
    except HallmarkError as error:
        status, message, code = "failed", str(error), 1
        print(f"{prefix} {error}", file=sys.stderr)
    except OSError as error:
        status, message, code = "failed", str(error), 1
        print(f"{prefix} {_explain_os_error(error)}", file=sys.stderr)
    except Exception as error:
        status, message, code = "failed", f"{type(error).__name__}: {error}", 1
        traceback.print_exc()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a group that is stopped gets a second one when its parent dies
        _close_stage(stage, status, message, started)
    sys.exit(code)


def _open_stage(name: str, rank: int) -> Stage:
    from dvc.exceptions import DvcException

    from pipeline.tracking.build import describe_build
    from pipeline.tracking.mirror import start_mirror
    from pipeline.tracking.stage_key import describe_stage, stage_key

    params = load_params()
    try:
        description = describe_stage(name)
    except DvcException as error:
        raise HallmarkError(str(error), where=f"dvc.yaml: {name}", fix="dvc repro") from error
    key = stage_key(description)
    journal = Journal(key if rank == 0 else None)
    journal.write("start", stage=name, key=key, description=description, pid=os.getpid(), **describe_build())
    print(f"stage {name}  key {key[:12]}  {stage_home(key)}", flush=True)
    if rank == 0:
        start_mirror()
    return Stage(name, key, description, params, journal, rank=rank)


def _close_stage(stage: Stage, status: str, message: str, started: float) -> None:
    """End the journal and keep seconds and peak memory beside the outputs, never in them: they vary from run to run."""
    seconds = time.time() - started
    peak_bytes = peak_memory_bytes()
    try:
        stage.journal.write("end", status=status, error=message, seconds=seconds, peak_memory_bytes=peak_bytes)
        if status == "finished" and stage.rank == 0:
            timing = {"stage": stage.name, "seconds": seconds, "peak_memory_bytes": peak_bytes, **stage.timings}
            write_json(stage_home(stage.key) / "timing.json", timing)
    except OSError as error:
        print(f"hallmark: {stage.name}: the journal could not be closed ({error})", file=sys.stderr)
    finally:
        stage.journal.close()


def _explain_os_error(error: OSError) -> str:
    if error.errno == 28:  # ENOSPC
        return (
            f"the disk is full: {error}\n  next: free space (`dvc gc --workspace` drops old outputs), then `dvc repro`"
        )
    return str(error)
