"""Sends one journal to MLflow: every point exactly once, however often either side dies.

How far a journal was sent is kept beside it in `mirror.json`, one entry per store. It is written after the store has
taken a batch; what was sent after the last writing is sent again, and the store drops points that it has.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from pipeline.common.files import read_json, write_json
from pipeline.common.layout import metrics_file
from pipeline.tracking import mlflow_runs
from pipeline.tracking.builds import figure_name
from pipeline.tracking.mlflow_runs import Uploader, flatten_params, point
from pipeline.tracking.mlflow_store import Store
from pipeline.tracking.runs import JOURNAL, StageRun, follow, read_events
from pipeline.tracking.system import SYSTEM_JOURNAL

STATE = "mirror.json"
REFUSALS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "BAD_REQUEST"}


@dataclass
class Sent:
    """How much of a journal one store has.

    Attributes:
        offset, system_offset: bytes of `journal.jsonl` and `system.jsonl` that were sent.
        runs: uid of a stage run -> its id in the store.
        complete: the last run told of is closed in the store.
        refused: why the store took a part of it never, such as a run that a person deleted.
    """

    offset: int = 0
    system_offset: int = 0
    runs: dict[str, str] = field(default_factory=dict)
    complete: bool = False
    refused: str | None = None


def load_sent(folder: Path, store: Store) -> Sent:
    states = read_json(folder / STATE) if (folder / STATE).exists() else {}
    return Sent(**states[store.identity]) if store.identity in states else Sent()


def journal_sizes(folder: Path) -> tuple[int, int]:
    """Bytes of the journal and of the samples beside it."""
    system = folder / SYSTEM_JOURNAL
    return (folder / JOURNAL).stat().st_size, system.stat().st_size if system.exists() else 0


def is_all_sent(folder: Path, store: Store) -> bool:
    """Whether nothing of this journal is left to send; reads no journal."""
    sent = load_sent(folder, store)
    return sent.complete and (sent.offset, sent.system_offset) == journal_sizes(folder)


class JournalSender:
    """Follows one journal. After any error throw it away and make another: the truth is on the disk.

    Args:
        store: where to send to.
        folder: the stage's folder, which holds `journal.jsonl`.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self.store, self.folder = store, folder
        self.sent = load_sent(folder, store)
        self.handled = self.sent.offset
        self.run: StageRun | None = None
        self.metrics: list[Metric] = []
        self.params: dict[str, Any] = {}
        self.points = 0
        self.warnings: list[str] = []
        for event, offset in read_events(folder / JOURNAL):
            if offset > self.sent.offset:
                break
            self.run = follow(self.run, event)
            self._new_points(event)  # only remembers them

    def pump(self) -> int:
        """Send what was written since the last time; returns the number of points.

        Raises MLflow's errors when the store is away.
        """
        before = self.points
        try:
            for event, offset in read_events(self.folder / JOURNAL, self.handled):
                self.run = follow(self.run, event)
                if self.run is not None:
                    self._take(self.run, event)
                self.handled = offset
                if len(self.metrics) >= mlflow_runs.METRICS_PER_CALL:
                    self._flush()
            self._take_system()
            self._flush()
            self._close_killed()
        except MlflowException as error:
            if error.error_code not in REFUSALS:
                raise
            self._give_up(str(error))
        return self.points - before

    def _take(self, run: StageRun, event: dict[str, Any]) -> None:
        match event["event"]:
            case "start":
                self._open(run)
            case "metrics" | "summary":
                self.metrics += self._new_points(event)
            case "note":
                self.params |= {f"derived.{name}": value for name, value in flatten_params(event["values"]).items()}
            case "artifact":
                self._flush()
                self._upload(run, event["path"])
            case "end":
                self._end(run, event)

    @property
    def run_id(self) -> str:
        assert self.run is not None
        return self.sent.runs[self.run.uid]

    def _new_points(self, event: dict[str, Any]) -> list[Metric]:
        run, seconds = self.run, event["time"]
        if run is None or event["event"] not in ("metrics", "summary"):
            return []
        if event["event"] == "metrics":
            step = event["step"]
            return [point(n, v, seconds, step) for n, v in event["values"].items() if run.is_new_point(n, step, v)]
        # A final figure goes behind its curve, if it has one and differs from its last point.
        figures = {figure_name(name): value for name, value in event["values"].items()}
        news = {name: value for name, value in figures.items() if run.last_values.get(name) != value}
        run.last_values |= news
        return [point(name, value, seconds, run.last_steps.get(name, 0)) for name, value in news.items()]

    def _open(self, run: StageRun) -> None:
        self._flush()
        self.sent.complete = False
        goes_on = run.uid in self.sent.runs or run.begun != run.start["time"]
        run_id = mlflow_runs.ensure_stage_run(self.store, run, reopen=goes_on)
        self.sent.runs[run.uid] = run_id
        description = run.start["description"]
        params = flatten_params(description["params"])
        mlflow_runs.log(self.store, run_id, params=params)
        mlflow_runs.log(self.store, mlflow_runs.ensure_build_run(self.store, run.start, run.begun), params=params)
        mlflow_runs.log_inputs(self.store, run_id, description["deps"])

    def _end(self, run: StageRun, event: dict[str, Any]) -> None:
        for name in ("seconds", "peak_memory_bytes"):
            self.metrics.append(point(name, event[name], event["time"]))
        self._flush()
        metrics = metrics_file(run.start["stage"])
        if event["status"] == "finished" and (Path(run.start["root"]) / metrics).exists():
            self._upload(run, metrics)
        self._close(run, event["time"], event["error"])

    def _upload(self, run: StageRun, path: Path | str) -> None:
        uploader = Uploader(self.store, Path(run.start["root"]), self.warnings)
        uploader.upload(self.run_id, path)

    def _close(self, run: StageRun, ended: float, error: str = "") -> None:
        status = run.status
        tags = {"hallmark.status": "ran" if status == "finished" else status}
        if error:
            tags["hallmark.error"] = error
        mlflow_runs.log(self.store, self.run_id, tags=tags)
        mlflow_runs.close(self.store, self.run_id, status, ended)
        self.sent.complete = True

    def _close_killed(self) -> None:
        """The reaper: a run whose process is gone without an end event is not left RUNNING."""
        if self.run is not None and not self.sent.complete and self.run.status == "killed":
            self._close(self.run, (self.folder / JOURNAL).stat().st_mtime, "the process is gone and left no word")
            self._save()

    def _take_system(self) -> None:
        samples: dict[str, list[Metric]] = {}
        taken = self.sent.system_offset
        for event, offset in read_events(self.folder / SYSTEM_JOURNAL, taken):
            if event["run"] not in self.sent.runs:
                break
            points = [point(name, value, event["time"], event["step"]) for name, value in event["values"].items()]
            samples.setdefault(self.sent.runs[event["run"]], []).extend(points)
            taken = offset
        for run_id, metrics in samples.items():
            mlflow_runs.log(self.store, run_id, metrics)
        self.sent.system_offset = taken

    def _flush(self) -> None:
        if self.metrics or self.params:
            self.points += mlflow_runs.log(self.store, self.run_id, self.metrics, self.params)
            self.metrics, self.params = [], {}
        self.sent.offset = self.handled
        self._save()

    def _give_up(self, reason: str) -> None:
        self.metrics, self.params = [], {}
        self.sent.refused, self.sent.complete = reason, True
        self.sent.offset = self.handled = (self.folder / JOURNAL).stat().st_size
        self.warnings.append(f"{self.folder.name[:12]}: MLflow refused the rest of this run: {reason}")
        self._save()

    def _save(self) -> None:
        states = read_json(self.folder / STATE) if (self.folder / STATE).exists() else {}
        if states.get(self.store.identity) != asdict(self.sent):
            write_json(self.folder / STATE, {**states, self.store.identity: asdict(self.sent)})
