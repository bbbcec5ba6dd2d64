"""A name of the hub: the network is used then, and only then, and what it does not give is told."""

import hashlib
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from pipeline.common.files import read_json
from tests.model.published import publish

NAME, COMMIT = "someone/tiny-gpt2", "c" * 40


class Hub(http.server.BaseHTTPRequestHandler):
    """What a download asks of the hub: a list of files, then each file by commit."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        self.folder = folder
        super().__init__(*arguments)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        file = self.folder / path.rpartition("/")[2]
        present = sorted(self.folder.iterdir())
        if path.startswith(f"/api/models/{NAME}/tree/"):
            tree = [{"type": "file", "path": found.name, "size": found.stat().st_size, "oid": ""} for found in present]
            self._answer(json.dumps(tree).encode(), "application/json")
        elif path.startswith(f"/api/models/{NAME}/"):
            files = [{"rfilename": found.name} for found in present]
            self._answer(json.dumps({"id": NAME, "sha": COMMIT, "siblings": files}).encode(), "application/json")
        elif path.startswith(f"/{NAME}/resolve/") and file.exists():
            self._answer(file.read_bytes(), "application/octet-stream")
        else:
            self.send_error(404)

    do_HEAD = do_GET

    def _answer(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    publish("gpt2", tmp_path / "published")
    (tmp_path / "published" / "pytorch_model.bin").write_bytes(b"a pickle that nobody asks for")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Hub, tmp_path / "published"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def run_import(source: str, folder: Path, endpoint: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the hub's client reads its address when it is imported."""
    code = (
        "from pipeline.common.environment import be_quiet; be_quiet()\n"
        "from pipeline.model.interchange.importing import import_model\n"
        f"import_model({source!r}, {str(folder / 'ours')!r})"
    )
    environment = {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder / "cache"), "PYTHONPATH": str(Path.cwd())}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)


def test_a_name_is_downloaded_without_its_pickles(hub: str, tmp_path: Path) -> None:
    done = run_import(f"hf:{NAME}", tmp_path, hub)
    assert done.returncode == 0, done.stderr
    told = read_json(tmp_path / "ours" / "config.json")["import"]
    assert told["source"] == f"hf:{NAME}"
    assert sorted(told["files"]) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert not list((tmp_path / "cache").rglob("*.bin"))


def test_a_name_that_the_hub_does_not_have_says_what_to_do(hub: str, tmp_path: Path) -> None:
    done = run_import("hf:someone/else", tmp_path, hub)
    assert "HallmarkError" in done.stderr
    assert "there is no folder someone/else, and the hub does not give it" in done.stderr
    assert "check the name and the network, or download the model and name its folder" in done.stderr
