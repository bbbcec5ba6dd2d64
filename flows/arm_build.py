"""One arm of a sweep: built in a worktree of its own, up to the stages that are asked for, and written down.

    .hallmark/sweeps/NAME/arms/ID/
      arm.json       what was built, the stage keys and figures (`pipeline.evaluation.ranked_sweep` describes it)
      dvc.lock       as the arm left it
      predictions/   of each evaluated task

DVC's cache is shared, so that what two arms have in common is built once, and training goes on from its checkpoint
after a kill. An arm is finished if its `dvc.lock` describes the stages as they are now: the same stage keys. Its
folder's name says nothing.
"""

import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo

from flows.arms import EVALUATE, ArmPlan, needed
from flows.plan import Step, make_plan
from flows.publish import take_publisher
from flows.stage import StageError, StageProcesses, StageStoppedError
from flows.workspace import workspace
from pipeline.common.errors import HallmarkError
from pipeline.common.files import atomic_path, read_json, write_json
from pipeline.common.layout import PREDICTIONS, metrics_file
from pipeline.tracking.build import build_environment, new_build_id
from pipeline.tracking.builds import flatten_numbers, headline
from pipeline.tracking.mirror import is_off
from pipeline.tracking.stage_key import describe_stage, locked_stages, stage_key

LOCK, RECORD = "dvc.lock", "arm.json"
Record = dict[str, Any]


@dataclass
class ArmBuilder:
    """Builds the arms of one sweep, several at once if they are asked for from several threads.

    Attributes:
        root: the checkout.
        home: this machine's state (`layout.home()`).
        folder: where the arms are written down.
        targets: the stages to bring up to date, with all that they need.
    """

    root: Path
    home: Path
    folder: Path
    targets: Sequence[str]
    _stopping: bool = False
    _running: list[StageProcesses] = field(default_factory=list)
    _preparing: threading.Lock = field(default_factory=threading.Lock)  # Git and DVC, in this process
    _stages: defaultdict[str, threading.Lock] = field(default_factory=lambda: defaultdict(threading.Lock))

    def build(self, arm: ArmPlan, say: Callable[[str], object]) -> tuple[Record, bool]:
        """Bring an arm up to date.

        Returns:
            What is known of it, and whether anything had to be done.

        Raises:
            StageError, HallmarkError: a stage failed, or the worktree could not be made.
            StageStoppedError: `stop` was called.
        """
        build, kept = new_build_id(), self.folder / arm.id
        with ExitStack() as stack:
            with self._preparing:
                self._refuse_if_stopping(arm)
                worktree = stack.enter_context(workspace(self.root, self.home, build, arm.overrides, say))
                if (kept / LOCK).exists():
                    _bring(kept / LOCK, worktree)
                    if _is_finished(kept, worktree):
                        return read_json(kept / RECORD), False
                steps = needed(make_plan(worktree), self.targets)
            environment = {**build_environment(build), "HALLMARK_HOME": str(self.home)}
            processes = StageProcesses(worktree, self.home, environment)
            self._running.append(processes)
            try:
                self._refuse_if_stopping(arm)  # again: `stop` looks at those that run only once
                say(f"build {build} in {worktree}; stale: {', '.join(s.name for s in steps if s.stale) or 'nothing'}")
                self._run(steps, processes, say)
                with self._preparing:
                    record = _write_down(kept, arm, build, worktree, steps)
            finally:
                if not self._stopping and not is_off():
                    _publish(worktree, environment, say)
                self._running.remove(processes)
        return record, True

    def stop(self) -> None:
        """Stop every arm and let none start; returns when all their processes are gone."""
        self._stopping = True
        with ThreadPoolExecutor() as stoppers:
            list(stoppers.map(StageProcesses.stop, list(self._running)))

    def _refuse_if_stopping(self, arm: ArmPlan) -> None:
        if self._stopping:
            raise StageStoppedError(f"{arm.label} was not started: the sweep is stopping")

    def _run(self, steps: Sequence[Step], processes: StageProcesses, say: Callable[[str], object]) -> None:
        """Each stage that is stale, or comes after one that was."""
        changed: set[str] = set()
        for step in steps:
            if not step.stale and not changed.intersection(step.upstream):
                continue
            with self._preparing:
                key = stage_key(describe_stage(step.name, processes.root))
            with self._stages[key]:  # what another arm is building now comes from the cache then
                started = time.monotonic()
                outcome = processes.run(step.name, gpu=step.gpu, on_line=say)
            say(f"{step.name}: {outcome} in {time.monotonic() - started:.1f} s")
            if outcome != "unchanged":
                changed.add(step.name)


def failed_record(arm: ArmPlan, error: Exception) -> Record:
    """What is shown of an arm that could not be built."""
    empty: Record = {"key": "", "stages": {}, "sources": {}, "figures": {}, "predictions": {}}
    return {"settings": dict(arm.settings), "seed": arm.seed, "build": "", "error": str(error), **empty}


def is_hopeless(error: BaseException) -> bool:
    """Whether another try would not mend it."""
    return not isinstance(error, StageError) or error.known


def _bring(lock: Path, worktree: Path) -> None:
    """What this arm built before, to where it is built now."""
    shutil.copyfile(lock, worktree / LOCK)
    try:
        with Repo(str(worktree)) as repo:
            repo.checkout(allow_missing=True, force=True)
    except DvcException as error:
        raise HallmarkError(str(error), where=str(worktree), fix="dvc status") from error


def _is_finished(kept: Path, worktree: Path) -> bool:
    """Whether every stage that the record tells of has the same key now, on the files that are there."""
    if not (kept / RECORD).exists():
        return False
    record = read_json(kept / RECORD)
    if not all(Path(path).exists() for path in record["predictions"].values()):
        return False
    try:
        return all(stage_key(describe_stage(name, worktree)) == key for name, key in record["stages"].items())
    except DvcException:  # a stage or file that is not there any more
        return False


def _write_down(kept: Path, arm: ArmPlan, build: str, worktree: Path, steps: Sequence[Step]) -> Record:
    """Keep what is needed of an arm, since worktrees are removed; the record last."""
    locked = locked_stages(worktree)
    keys, sources, rows, predictions = {}, {}, {}, {}
    made = {out["path"] for entry in locked.values() for out in entry.get("outs", [])}
    for step in steps:
        if step.name not in locked:  # a .dvc file
            continue
        description = describe_stage(step.name, worktree)
        keys[step.name] = stage_key(description)
        deps: Mapping[str, str] = description["deps"]
        sources |= {path: md5 for path, md5 in deps.items() if not _is_inside(path, made)}
        rows[step.name] = {"metrics": _metrics(worktree / metrics_file(step.name))}
        task = step.name.removeprefix(EVALUATE)
        table = PREDICTIONS / f"{task}.parquet"
        if task != step.name and (worktree / table).exists():
            predictions[task] = str(_keep(worktree / table, kept / table))
    _keep(worktree / LOCK, kept / LOCK)
    record: Record = {
        "settings": dict(arm.settings),
        "seed": arm.seed,
        "build": build,
        "key": list(keys.values())[-1],
        "stages": keys,
        "sources": sources,
        "figures": headline(rows),
        "predictions": predictions,
        "error": None,
    }
    write_json(kept / RECORD, record)
    return record


def _is_inside(path: str, folders: set[str]) -> bool:
    return any(Path(path).is_relative_to(folder) or Path(folder).is_relative_to(path) for folder in folders)


def _metrics(path: Path) -> dict[str, float]:
    return flatten_numbers(read_json(path)) if path.exists() else {}


def _keep(source: Path, target: Path) -> Path:
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
    return target


def _publish(worktree: Path, environment: Mapping[str, str], say: Callable[[str], object]) -> None:
    """Complete the build's own rows in MLflow, as `flows.rebuild` does; no model is registered.

    That a tracker is away is only said: the sweep warns of it once, at its end.
    """
    publisher = take_publisher()
    try:
        publisher.begin(worktree, environment, [])
        publisher.finish(say, say)
    finally:
        publisher.dismiss()
