"""Journals written by hand, and a real MLflow store in SQLite for them."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.tracking.builds import begin_build
from pipeline.tracking.journal import Journal
from pipeline.tracking.mlflow_store import Store, open_store


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new MLflow database: making one takes over a second."""
    home = tmp_path_factory.mktemp("database")
    before = dict(os.environ)
    os.environ |= {"HALLMARK_HOME": str(home)}
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI", "MLFLOW_EXPERIMENT_NAME"):
        os.environ.pop(name, None)
    try:
        open_store("template")
    finally:
        os.environ.clear()
        os.environ |= before
    return home / "mlflow"


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path) -> Path:
    """An empty checkout as the working directory, with its own machine state and MLflow database; returns the state."""
    for name in list(os.environ):
        if name.startswith(("MLFLOW_TRACKING", "MLFLOW_REG", "MLFLOW_EXP", "HALLMARK_", "DVC_")):
            monkeypatch.delenv(name)
    home = tmp_path / ".hallmark"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HALLMARK_HOME", str(home))
    shutil.copytree(empty_database, home / "mlflow")
    return home


@pytest.fixture
def store(machine: Path) -> Store:
    return open_store()


@pytest.fixture
def dead_process() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


Begin = Callable[..., Journal]


@pytest.fixture
def begin(machine: Path, tmp_path: Path) -> Iterator[Begin]:
    """Starts a stage as its door does: `begin("pretrain", pid=..., build=...)` returns the open journal."""
    opened: list[Journal] = []

    def start(
        stage: str = "pretrain",
        *,
        key: str = "a" * 64,
        pid: int | None = None,
        build: str = "first",
        params: Mapping[str, Any] | None = None,
        deps: Mapping[str, str] | None = None,
        git_commit: str | None = "c0ffee",
    ) -> Journal:
        pid = os.getpid() if pid is None else pid
        facts = {"build": build, "build_pid": pid, "host": socket.gethostname(), "root": str(tmp_path)}
        facts |= {"git_commit": git_commit, "git_dirty": False}
        begin_build(facts)
        description = {"name": stage, "cmd": f"python -m {stage}", "deps": deps or {}, "params": params or {}}
        journal = Journal(key)
        journal.write("start", stage=stage, key=key, description=description, pid=pid, **facts)
        opened.append(journal)
        return journal

    yield start
    for journal in opened:
        journal.close()


def finish(journal: Journal, status: str = "finished", error: str = "") -> None:
    journal.write("end", status=status, error=error, seconds=1.5, peak_memory_bytes=1000)
    journal.close()


def curve(store: Store, run_id: str, name: str) -> list[tuple[int, float]]:
    """The points of a curve as the store has them, in the order of their steps."""
    history = store.client.get_metric_history(run_id, name)
    return sorted((metric.step, metric.value) for metric in history)


def runs(store: Store, **tags: str) -> list[Any]:
    """The runs with these tags below `hallmark.`, newest first."""
    query = " and ".join(f"tags.`hallmark.{name}` = '{value}'" for name, value in tags.items())
    return list(store.client.search_runs([store.experiment_id], query))
