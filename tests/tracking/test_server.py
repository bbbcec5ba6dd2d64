"""A real `mlflow server`, and what happens when it dies in mid-training."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.tracking.mirror import Mirror
from pipeline.tracking.mlflow_store import open_store
from tests.tracking.conftest import Begin, curve, finish, runs


class Server:
    """An MLflow server that can be killed and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = ["server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        environment |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", *command],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                    return
            except OSError:
                time.sleep(0.1)
        pytest.fail((self.folder / "log").read_text())

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "server")
    yield server
    server.kill()


@pytest.mark.server
def test_a_server_that_dies_in_mid_training_loses_no_point(
    machine: Path, server: Server, begin: Begin, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    journal = begin(deps={"data/tokens": "0" * 32})
    journal.metrics(1, {"loss": 1.0})
    mirror = Mirror()
    assert mirror.send(), mirror.failure

    server.kill()
    for step in range(2, 1500):
        journal.metrics(step, {"loss": 1 / step})
    assert not mirror.send()
    assert (mirror.failure or "").startswith(f"{server.uri}: sending to MLflow failed: ")  # refused, or reset
    (tmp_path / "page.html").write_text("hello")
    journal.artifact("page.html")
    finish(journal)
    assert not mirror.send()

    server.start()
    assert mirror.send(), mirror.failure
    store = open_store()
    (run,) = runs(store, stage="pretrain")
    assert run.info.status == "FINISHED"
    assert curve(store, run.info.run_id, "loss") == [(step, 1 / step) for step in range(1, 1500)]
    assert [artifact.path for artifact in store.client.list_artifacts(run.info.run_id)] == ["page.html"]
    assert [given.dataset.digest for given in run.inputs.dataset_inputs] == ["0" * 32]
