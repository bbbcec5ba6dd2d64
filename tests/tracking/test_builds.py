"""Real `dvc repro` runs of a small project: what the mirror makes of them, and what `hallmark sync` adds."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pipeline.common.params import Params, render
from pipeline.tracking.builds import build_status, headline, is_over, read_builds
from pipeline.tracking.mlflow_store import Store, open_store
from pipeline.tracking.sync import sync_build
from tests.tracking.conftest import Begin, curve, finish, runs

REPOSITORY = Path(__file__).resolve().parents[2]

WORK = """
import sys
import time
from pathlib import Path
from pipeline.stages.door import Stage, run_stage

def main(stage: Stage) -> None:
    for step in range(3):
        stage.journal.metrics(step, {"loss": float(step)})
    Path(f"{stage.name}.txt").write_text(f"{stage.name} {stage.params.finetune.epochs}")
    stage.write_metrics({"accuracy": {"value": stage.params.finetune.epochs / 10}})
    while stage.name == "evaluate" and Path("wait").exists():
        time.sleep(0.02)

run_stage(main, sys.argv[1])
"""

DVC_YAML = """
stages:
  ingest:
    cmd: python work.py ingest
    deps: [work.py]
    params: [seed]
    outs: [ingest.txt]
    metrics: [metrics/ingest.json: {cache: false}]
  evaluate:
    cmd: python work.py evaluate
    deps: [work.py, ingest.txt]
    params: [finetune]
    outs: [evaluate.txt]
    metrics: [metrics/evaluate.json: {cache: false}]
"""


class Project:
    """A checkout with two stages that do next to nothing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "work.py").write_text(WORK)
        (root / "dvc.yaml").write_text(DVC_YAML)
        (root / ".gitignore").write_text(".hallmark\n")
        self.set_epochs(1)
        self.run("git", "init", "--quiet")
        self.run("dvc", "init", "--quiet")
        self.run("dvc", "config", "core.analytics", "false")
        self.commit()

    def commit(self) -> None:
        self.run("git", "add", "--all")
        who = ["-c", "user.name=Toy", "-c", "user.email=toy@example.org"]
        self.run("git", *who, "commit", "--quiet", "--allow-empty", "--message", "state")

    def set_epochs(self, epochs: int) -> None:
        settings = Params.model_validate({"finetune": {"epochs": epochs}})
        (self.root / "params.yaml").write_text(render(settings))

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(REPOSITORY),
            "DVC_SITE_CACHE_DIR": str(self.root / ".hallmark" / "dvc-site"),
            "DVC_NO_ANALYTICS": "1",
        }

    def run(self, *command: str) -> None:
        subprocess.run(command, cwd=self.root, env=self.environment, text=True, capture_output=True, check=True)

    def repro(self) -> None:
        self.run("dvc", "repro")
        wait_for_mirror_to_end(self.root)


def mirrors(root: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if "pipeline.tracking.mirror" in process.cmdline() and process.cwd() == str(root):
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_for_mirror_to_end(root: Path, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while left := mirrors(root):
        assert time.monotonic() < deadline, f"the mirror did not end: {left}"
        time.sleep(0.05)


@pytest.fixture
def project(machine: Path, tmp_path: Path) -> Project:
    return Project(tmp_path)


def _journals(root: Path, stage: str) -> list[Path]:
    journals = (root / ".hallmark" / "stages").glob("*/journal.jsonl")
    return [path for path in journals if f'"stage": "{stage}"' in path.read_text()]


def statuses(store: Store, build: str) -> dict[str, str]:
    below = [run for run in runs(store, build=build) if "hallmark.stage" in run.data.tags]
    assert all(run.info.status in ("FINISHED", "FAILED") for run in below)
    return {run.data.tags["hallmark.stage"]: run.data.tags["hallmark.status"] for run in below}


def builds(store: Store) -> list[str]:
    """The ids of the builds, oldest first."""
    parents = [run for run in runs(store) if "hallmark.stage" not in run.data.tags]
    return [run.data.tags["hallmark.build"] for run in sorted(parents, key=lambda run: run.info.start_time)]


@pytest.mark.end_to_end
def test_builds_are_rows_without_holes(project: Project) -> None:
    project.repro()
    store = open_store()
    (first,) = builds(store)
    assert statuses(store, first) == {"ingest": "ran", "evaluate": "ran"}
    (ran,) = runs(store, stage="ingest")
    assert curve(store, ran.info.run_id, "loss") == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert ran.data.tags["hallmark.git_dirty"] == "false"

    project.set_epochs(2)
    project.repro()
    second = builds(store)[1]
    assert statuses(store, second) == {"ingest": "unchanged", "evaluate": "ran"}
    (cached,) = runs(store, stage="ingest", status="unchanged")
    assert cached.data.tags["hallmark.origin_run"] == ran.info.run_id
    assert cached.data.metrics["accuracy"] == ran.data.metrics["accuracy"]
    assert cached.data.params == ran.data.params
    assert cached.info.end_time == cached.info.start_time

    parents = [run for run in runs(store) if "hallmark.stage" not in run.data.tags]
    figures = {run.data.tags["hallmark.build"]: run for run in parents}
    differing = {
        name
        for name in figures[first].data.params
        if figures[first].data.params[name] != figures[second].data.params.get(name)
    }
    assert differing == {"finetune.epochs"}
    assert [figures[build].data.metrics["evaluate.accuracy"] for build in (first, second)] == [0.1, 0.2]
    assert "validate.max_class_share" in figures[first].data.params  # no stage here uses it
    assert figures[first].data.tags["hallmark.lock_hash"] != figures[second].data.tags["hallmark.lock_hash"]
    assert figures[second].data.tags["hallmark.git_dirty"] == "true"

    project.set_epochs(1)  # DVC has this one in its cache: no stage runs, so no mirror
    project.repro()
    assert len(builds(store)) == 2
    report = sync_build()
    assert report.reached
    third = builds(store)[2]
    assert report.build == third
    assert statuses(store, third) == {"ingest": "unchanged", "evaluate": "restored"}
    restored = runs(store, build=third, stage="evaluate")[0]
    assert restored.data.metrics["accuracy"] == 0.1
    assert restored.data.tags["hallmark.origin_run"] == runs(store, build=first, stage="evaluate")[0].info.run_id

    before = len(runs(store))
    again = sync_build()
    assert (again.build, again.points, len(runs(store))) == (third, 0, before)


@pytest.mark.end_to_end
def test_a_killed_build_leaves_nothing_running_and_a_flow_goes_on_with_it_as_one_curve(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project.root / "wait").touch()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    dvc = subprocess.Popen(["dvc", "repro"], cwd=project.root, env=project.environment, **quiet)
    deadline = time.monotonic() + 60
    while not any('"step": 2' in path.read_text() for path in _journals(project.root, "evaluate")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    dvc.kill()
    dvc.wait()
    wait_for_mirror_to_end(project.root)
    store = open_store()
    (killed,) = builds(store)
    assert {run.info.run_name: run.info.status for run in runs(store)} == {
        f"build {killed}": "KILLED",
        "ingest": "FINISHED",
        "evaluate": "KILLED",
    }
    (stage,) = runs(store, stage="evaluate")
    assert stage.data.tags["hallmark.status"] == "interrupted"

    (project.root / "wait").unlink()
    monkeypatch.setenv("HALLMARK_BUILD", "nightly")
    monkeypatch.setenv("HALLMARK_BUILD_PID", str(os.getpid()))  # the flow: it lives on, and so does the mirror
    project.run("dvc", "repro")
    assert mirrors(project.root)
    report = sync_build()
    wait_for_mirror_to_end(project.root)
    assert (report.build, report.status) == ("nightly", "1 ran, 1 unchanged")
    assert statuses(store, "nightly") == {"ingest": "unchanged", "evaluate": "ran"}
    (same,) = runs(store, stage="evaluate")
    assert (same.info.run_id, same.info.status) == (stage.info.run_id, "FINISHED")
    assert curve(store, same.info.run_id, "loss") == [(0, 0.0), (1, 1.0), (2, 2.0)]


def test_a_build_is_over_when_its_last_stage_is(begin: Begin, dead_process: int) -> None:
    journal = begin(build="killed")
    (record,) = read_builds()
    assert not is_over(record)
    assert not is_over({**record, "build_pid": dead_process}), "its stage still saves a checkpoint"
    finish(journal, "interrupted")
    assert is_over({**record, "build_pid": dead_process})


@pytest.mark.parametrize(
    ("found", "status"),
    [
        (["ran", "unchanged", "restored"], "finished"),
        (["ran", "failed", "interrupted"], "failed"),
        (["ran", "running"], "killed"),
    ],
)
def test_the_worst_stage_is_the_builds_status(found: list[str], status: str) -> None:
    stages = {str(number): {"status": word} for number, word in enumerate(found)}
    assert build_status({"stages": stages, "lost": None}) == status


def test_the_headline_has_what_builds_are_compared_by() -> None:
    stages = {
        "pretrain": {"metrics": {"bits_per_byte": 1.7}},
        "validate": {"metrics": {"expectations.documents.id_unique.rows": 0.0}},
        "evaluate@library": {
            "metrics": {
                "macro_f1.value": 0.6,
                "macro_f1.low": 0.5,
                "f1.micro": 0.7,
                "per_class.numpy.f1": 0.1,
                "baselines.tfidf.macro_f1.high": 0.4,
            }
        },
    }
    assert headline(stages) == {
        "pretrain.bits_per_byte": 1.7,
        "tasks.library.macro_f1": 0.6,
        "tasks.library.macro_f1.low": 0.5,
        "tasks.library.f1.micro": 0.7,
        "tasks.library.baselines.tfidf.macro_f1.high": 0.4,
    }
