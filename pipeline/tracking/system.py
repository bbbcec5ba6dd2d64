"""What a running stage asks of the machine: sampled from outside, so that it costs the stage nothing.

Samples go into `system.jsonl` beside the journal, in the journal's form, and to MLflow from there:

    {"event": "system", "time", "run": uid, "step": whole seconds since the run began, "values": {name: float}}
"""

import json
import shutil
import subprocess
import time
from pathlib import Path

import psutil

from pipeline.tracking.runs import JOURNAL, StageRun, follow, journal_folders, read_events

SYSTEM_JOURNAL = "system.jsonl"
SECONDS_BETWEEN = 10.0
RECENT_SECONDS = 120.0  # a stage that just began has just written its journal
MEGABYTE = 1e6


class Sampler:
    """Finds the stages that run on this machine and notes their processor, memory and GPU use."""

    def __init__(self) -> None:
        self.last = 0.0
        self.offsets: dict[Path, int] = {}
        self.runs: dict[Path, StageRun] = {}
        self.processes: dict[int, psutil.Process] = {}
        self.nvidia_smi = shutil.which("nvidia-smi")

    def running(self) -> list[tuple[Path, StageRun]]:
        """The stage runs whose processes are alive, with their folders."""
        for folder in journal_folders():
            path = folder / JOURNAL
            if folder not in self.offsets and time.time() - path.stat().st_mtime > RECENT_SECONDS:
                continue
            run = self.runs.get(folder)
            for event, offset in read_events(path, self.offsets.setdefault(folder, 0)):
                run = follow(run, event)
                self.offsets[folder] = offset
            if run is not None:
                self.runs[folder] = run
        return [(folder, run) for folder, run in self.runs.items() if run.end is None and run.is_running()]

    def sample(self, running: list[tuple[Path, StageRun]]) -> None:
        """Write one sample for each running stage, unless the last one was a moment ago."""
        now = time.time()
        if not running or now - self.last < SECONDS_BETWEEN:
            return
        self.last = now
        gpus = self._gpus()
        for folder, run in running:
            try:
                values = {**self._process(run.start["pid"]), **gpus}
            except psutil.Error:  # it ended just now
                continue
            event = {"event": "system", "time": now, "run": run.uid, "step": int(now - run.begun), "values": values}
            with (folder / SYSTEM_JOURNAL).open("a", encoding="utf-8") as handle:
                handle.write(json.dumps(event) + "\n")

    def _process(self, pid: int) -> dict[str, float]:
        """Use by the stage and its children; processor in percent of one core, since the last sample."""
        root = self.processes.setdefault(pid, psutil.Process(pid))
        processor = memory = 0.0
        for process in (root, *root.children(recursive=True)):
            known = self.processes.setdefault(process.pid, process)
            try:
                processor += known.cpu_percent()  # 0 at its first call
                memory += known.memory_info().rss
            except psutil.Error:
                continue
        machine = psutil.virtual_memory()
        return {
            "system/cpu_utilization_percentage": processor,
            "system/process_memory_megabytes": memory / MEGABYTE,
            "system/system_memory_usage_percentage": machine.percent,
        }

    def _gpus(self) -> dict[str, float]:
        if self.nvidia_smi is None:
            return {}
        query = ["--query-gpu=index,utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
        try:
            table = subprocess.run([self.nvidia_smi, *query], capture_output=True, text=True, timeout=5, check=True)
        except (OSError, subprocess.SubprocessError):
            self.nvidia_smi = None  # it will not get better during this build
            return {}
        return parse_gpus(table.stdout)


def parse_gpus(table: str) -> dict[str, float]:
    """The lines `index, percent, mebibytes` of nvidia-smi as metrics; a field it does not know is left out."""
    values: dict[str, float] = {}
    for line in table.splitlines():
        index, use, memory = (cell.strip() for cell in line.split(","))
        if use.replace(".", "").isdigit():
            values[f"system/gpu_{index}_utilization_percentage"] = float(use)
        if memory.replace(".", "").isdigit():
            values[f"system/gpu_{index}_memory_usage_megabytes"] = float(memory) * 1.048576
    return values
