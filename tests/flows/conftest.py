"""A tiny real project for the flows: git, DVC, three stages of trivial commands, one of them marked for the GPU."""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from pipeline.common.ports import free_port
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]

# `train` reads a learning rate, prints, and if told to, fails, or waits until it is told to stop and then saves.
STEP = """
import json, os, pathlib, signal, sys, time
from pipeline.common.processes import die_with_parent
die_with_parent()  # as every door does
name = sys.argv[1]
data = pathlib.Path("data"); data.mkdir(exist_ok=True)
home = pathlib.Path(os.environ.get("HALLMARK_HOME", ".hallmark")); home.mkdir(exist_ok=True)
scratch = home / "scratch.txt"
def save(*_):
    scratch.write_text("half"); sys.exit(143)
if name == "train":
    signal.signal(signal.SIGTERM, save)
with (home / "started.txt").open("a") as log:
    log.write(f"{name} {os.getpid()} {os.getpgrp()}\\n")
print(f"{name} says hello in {pathlib.Path.cwd().name}", flush=True)
if name == "train":
    resumed = scratch.exists()
    wish = (home / "wish.txt").read_text() if (home / "wish.txt").exists() else ""
    if wish == "fail":
        sys.exit("hallmark: train: the loss is not finite\\n  next: lower the learning rate")
    if wish == "fail once" and not resumed:
        scratch.write_text("half")
        sys.exit("RuntimeError: out of memory")
    while wish == "wait" and not resumed:
        time.sleep(0.02)
source = pathlib.Path(sys.argv[2]).read_text()
pathlib.Path(sys.argv[3]).write_text(f"{source} {name} {sys.argv[4:]}")
metrics = pathlib.Path("metrics"); metrics.mkdir(exist_ok=True)
figures = {"length": len(source), "f1": {"value": 0.5, "low": 0.4, "high": 0.6}}
(metrics / f"{name}.json").write_text(json.dumps(figures))
"""

STAGES = """
stages:
  prepare:
    cmd: python step.py prepare source.txt data/prepared.txt
    deps: [step.py, source.txt]
    outs: [data/prepared.txt]
    metrics: [metrics/prepare.json: {cache: false}]
  train:
    cmd: python step.py train data/prepared.txt data/model.txt ${finetune.learning_rate}
    deps: [step.py, data/prepared.txt]
    outs: [data/model.txt]
    metrics: [metrics/train.json: {cache: false}]
    meta: {gpu: true}
  count:
    cmd: python step.py count data/prepared.txt data/count.txt
    deps: [step.py, data/prepared.txt]
    outs: [data/count.txt]
    metrics: [metrics/count.json: {cache: false}]
  report:
    cmd: python step.py report data/model.txt data/report.txt
    deps: [step.py, data/count.txt, data/model.txt]
    outs: [data/report.txt]
    metrics: [metrics/report.json: {cache: false}]
"""

Project = Path


def run(*command: str, cwd: Path, more: Mapping[str, str] = {}) -> str:
    """Run a command to its end, with `more` variables; returns what it printed, and shows it if it failed."""
    pipes: dict[str, Any] = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    done = subprocess.run(command, cwd=cwd, env=environment() | dict(more), check=False, **pipes)
    assert done.returncode == 0, done.stdout
    return done.stdout


def write_project(folder: Path) -> Project:
    """Write the tiny project, with a copy of the flows and of the rooms that they use, and commit it."""
    folder.mkdir(parents=True)
    for name in ("flows", "pipeline", "prefect.toml", "prefect.yaml"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, folder / name)
    (folder / "params.yaml").write_text("seed: 1\nfinetune:\n  learning_rate: 0.001  # tuned by hand\n")
    (folder / "dvc.yaml").write_text(STAGES)
    (folder / "step.py").write_text(STEP)
    (folder / "source.txt").write_text("raw")
    (folder / ".gitignore").write_text("/.hallmark/\n/.prefect/\n__pycache__/\n")
    run("git", "init", "-q", cwd=folder)
    run(sys.executable, "-m", "dvc", "init", "-q", cwd=folder)
    shutil.copy(ROOT / ".dvc/config", folder / ".dvc/config")
    shutil.copy(ROOT / ".dvcignore", folder / ".dvcignore")
    run("git", "add", "-A", cwd=folder)
    run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "start", cwd=folder)
    return folder


def until(condition: Callable[[], object], seconds: float = 60.0, pause: float = 0.05) -> None:
    """`wait_until` with the patience and the pauses that servers ask for."""
    wait_until(condition, seconds, pause)


def started(project: Project) -> list[str]:
    """The stages whose commands ran, in order."""
    path = project / ".hallmark/started.txt"
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def wish(project: Project, what: str) -> None:
    """What the next `train` does: "", "fail", "fail once", "wait"."""
    (project / ".hallmark").mkdir(exist_ok=True)
    (project / ".hallmark/wish.txt").write_text(what)


def environment() -> dict[str, str]:
    """The test's environment with this Python first, without tracking and without settings from outside."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "HALLMARK_", "DVC_"))}
    kept["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return kept | {"HALLMARK_TRACKING": "off"}


@contextmanager
def prefect_server(folder: Path, database: Path, more: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """A real server on loopback that keeps its state in `folder`, where it begins with a copy of `database`; yields the
    environment that leads to it."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    (folder / "prefect").mkdir()
    shutil.copy(database, folder / "prefect")
    settings = {**environment(), **more, "PREFECT_HOME": str(folder / "prefect"), "PREFECT_API_URL": url}
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port), "--no-ui"]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, cwd=folder, env=settings, stdout=log, stderr=log, start_new_session=True)
    try:
        until(lambda: _answers(url) or server.poll() is not None, 180)
        assert server.poll() is None, (folder / "server.log").read_text()
        yield settings
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # nothing of it is kept
        server.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


def processes_in(project: Project) -> list[psutil.Process]:
    """Every live process that works in this project, or in a worktree of it."""
    found = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()).is_relative_to(project) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def gpu_is_free(project: Project) -> bool:
    with (project / ".hallmark/gpu.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in set(os.environ) - set(environment()):
        monkeypatch.delenv(name)
    for name, value in environment().items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def new_template(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return write_project(tmp_path_factory.mktemp("new") / "project")


@pytest.fixture(scope="session")
def built_template(new_template: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("built") / "project"
    shutil.copytree(new_template, folder)
    run(sys.executable, "-m", "dvc", "repro", "-q", cwd=folder)
    (folder / ".hallmark/started.txt").unlink()
    return folder


@pytest.fixture
def project(new_template: Project, tmp_path: Path) -> Project:
    """The tiny project, not built yet."""
    return Path(shutil.copytree(new_template, tmp_path / "project"))


@pytest.fixture
def built(built_template: Project, tmp_path: Path) -> Project:
    """The tiny project, built by DVC itself."""
    return Path(shutil.copytree(built_template, tmp_path / "project"))
