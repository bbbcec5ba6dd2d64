"""The served model over HTTP, as `mlflow models serve` runs it."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.serving.package import write_package
from pipeline.serving.save import save_pyfunc
from pipeline.tasks.classification import load_classifier
from tests.serving.conftest import LABELS, TEXTS

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def service(classifier_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("service")
    save_pyfunc(write_package(classifier_folder, folder / "topic", TEXTS[:2]), folder / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["models", "serve", "--env-manager", "local", "-m", str(folder / "model"), "-p", str(port)]
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command],
            cwd=folder,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            _wait_for(f"http://127.0.0.1:{port}/ping", server, folder / "log")
            yield f"http://127.0.0.1:{port}/invocations"
        finally:
            os.killpg(server.pid, 15)
            server.wait(20)


def _wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.1)
    pytest.fail(log.read_text())


def ask(address: str, body: Any) -> Any:
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def test_a_request_is_answered_with_label_and_probabilities(service: str, classifier_folder: Path) -> None:
    answers = ask(service, {"inputs": TEXTS[:3]})["predictions"]
    expected = load_classifier(classifier_folder).predict_probabilities(TEXTS[:3])
    for answer, row in zip(answers, expected, strict=True):
        assert answer["label"] == LABELS[row.argmax()]
        assert answer["probabilities"] == {label: pytest.approx(float(p)) for label, p in zip(LABELS, row, strict=True)}


def test_a_wrong_request_is_explained(service: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(service, {"inputs": [3]})
    assert refused.value.code == 400
    assert "Expected type str" in refused.value.read().decode()
