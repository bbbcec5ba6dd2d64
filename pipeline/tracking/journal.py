"""The journal of a stage run: an append-only JSON-lines file, written without any tracking server.

Each line is one event with its time (seconds since the epoch):

    {"event": "start", "stage", "key", "description", "pid", and what `describe_build` gives}
    {"event": "metrics", "step": int, "values": {name: float}}      a point of a curve
    {"event": "summary", "values": {name: float}}                   final figures
    {"event": "note", "values": {name: str | number}}               what was derived or decided
    {"event": "artifact", "path": str}                              a file or folder to keep, relative to the root
    {"event": "end", "status": "finished" | "failed" | "interrupted", "seconds", "peak_memory_bytes", "error"}

A stage that is resumed appends to the journal of its stage key, from a new "start" on. `pipeline.tracking.mirror`
sends journals to MLflow; nothing here imports it, so a tracker that fails cannot fail a stage.
"""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.common.layout import stage_home


class Journal:
    """Appends events to `<stage home>/journal.jsonl`, each line flushed at once; without a stage key, to nothing."""

    def __init__(self, stage_key: str | None) -> None:
        self.path = stage_home(stage_key) / "journal.jsonl" if stage_key else Path(os.devnull)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._end_torn_line()
        self._handle = self.path.open("a", encoding="utf-8")

    def _end_torn_line(self) -> None:
        if self.path.exists():
            content = self.path.read_bytes()
            if content and not content.endswith(b"\n"):
                with self.path.open("r+b") as handle:
                    handle.truncate(content.rfind(b"\n") + 1)

    def write(self, event: str, **fields: Any) -> None:
        self._handle.write(json.dumps({"event": event, "time": time.time(), **fields}) + "\n")
        self._handle.flush()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.write("metrics", step=step, values=dict(values))

    def summary(self, values: Mapping[str, float]) -> None:
        self.write("summary", values=dict(values))

    def note(self, values: Mapping[str, Any]) -> None:
        self.write("note", values=dict(values))

    def artifact(self, path: Path | str) -> None:
        self.write("artifact", path=str(path))

    def close(self) -> None:
        self._handle.close()
