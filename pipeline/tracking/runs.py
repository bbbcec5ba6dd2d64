"""Journals read back: which stage runs they tell of."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.common.layout import home, stage_home
from pipeline.tracking.build import is_running

JOURNAL = "journal.jsonl"


@dataclass
class StageRun:
    """One run of a stage: from its first start, through any interruption, to its finish.

    A start after anything but a finish goes on with the same run, since the stage resumes from its checkpoint.
    """

    begun: float  # time of the first start
    start: dict[str, Any]  # the newest start event
    end: dict[str, Any] | None = None
    last_steps: dict[str, int] = field(default_factory=dict)  # metric -> the largest step told
    last_values: dict[str, float] = field(default_factory=dict)

    @property
    def uid(self) -> str:
        """Names this run in every store, before and after any of them is there.

        By the microsecond of its first start: two runs of one stage can share a millisecond, never a microsecond.
        """
        return f"{self.start['key'][:16]}-{int(self.begun * 1_000_000)}"

    @property
    def status(self) -> str:
        """running, finished, failed, interrupted, or killed (the process is gone and wrote no end)."""
        if self.end is not None:
            return str(self.end["status"])
        return "running" if self.is_running() else "killed"

    def is_running(self) -> bool:
        return is_running(self.start["pid"], self.start["time"], self.start.get("host"))

    def follow(self, event: dict[str, Any]) -> "StageRun":
        """The run after one more event of its journal: this one, or a new one that the event starts."""
        if event["event"] == "start":
            if self.end is not None and self.end["status"] == "finished":
                return StageRun(event["time"], event)
            self.start, self.end = event, None
        elif event["event"] == "end":
            self.end = event
        return self

    def is_new_point(self, name: str, step: int, value: float) -> bool:
        """Whether a point was not told before. A resumed stage tells the steps after its checkpoint again."""
        if step <= self.last_steps.get(name, -1):
            return False
        self.last_steps[name], self.last_values[name] = step, value
        return True


def follow(run: StageRun | None, event: dict[str, Any]) -> StageRun | None:
    """`StageRun.follow` from nothing on. Events before the first start belong to no run."""
    if run is not None:
        return run.follow(event)
    return StageRun(event["time"], event) if event["event"] == "start" else None


def read_events(path: Path, offset: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield each complete line from byte `offset` on with the offset behind it. A torn last line is left for later.

    A line that is no JSON object with an event (a damaged disk) is passed over.
    """
    if not path.exists():
        return
    with path.open("rb") as handle:
        handle.seek(offset)
        for line in handle:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and "event" in event:
                yield event, offset


def stage_runs(folder: Path) -> list[StageRun]:
    """Every run that a stage folder's journal tells of, oldest first."""
    runs: list[StageRun] = []
    run: StageRun | None = None
    for event, _offset in read_events(folder / JOURNAL):
        run = follow(run, event)
        if run is not None and (not runs or run is not runs[-1]):
            runs.append(run)
    return runs


def last_run(stage_key: str) -> StageRun | None:
    """The newest run of a stage key, if this machine has one."""
    runs = stage_runs(stage_home(stage_key))
    return runs[-1] if runs else None


def runs_of_build(build: str, begun: float) -> dict[str, StageRun]:
    """The newest run of every stage that a build started, by the stage's name.

    Args:
        build: its id.
        begun: when it began; journals that were last written before are not read.
    """
    found: dict[str, StageRun] = {}
    for folder in journal_folders(since=begun - 60):
        found |= {run.start["stage"]: run for run in stage_runs(folder) if run.start["build"] == build}
    return found


def journal_folders(since: float = 0.0) -> list[Path]:
    """The stage folders of this machine whose journal was written after `since`, oldest change first."""
    journals = [(path.stat().st_mtime, path.parent) for path in (home() / "stages").glob(f"*/{JOURNAL}")]
    return [folder for changed, folder in sorted(journals) if changed >= since]
