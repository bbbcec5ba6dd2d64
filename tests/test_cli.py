"""The command `hallmark`: its verbs, and how it fails."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.common.params import Params, load_params
from tests.toy import ToyProject

VERBS = {
    "doctor",
    "summary",
    "params",
    "check-data",
    "sync",
    "register",
    "export",
    "generate",
    "int8",
    "cross-validate",
    "chat",
    "ui",
    "promote",
    "rollback",
    "reap",
}


def test_every_verb_explains_itself() -> None:
    runner = CliRunner()
    listed = runner.invoke(app, ["--help"]).output
    assert all(f"  {verb} " in listed for verb in VERBS)
    for verb in VERBS:
        result = runner.invoke(app, [verb, "--help"])
        assert result.exit_code == 0
        assert len(result.output.splitlines()[2].strip()) > 20


def test_help_is_quick_since_heavy_libraries_wait() -> None:
    code = "import sys, pipeline.cli; print(sorted({'torch', 'mlflow', 'prefect', 'dvc', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_params_prints_settings_that_can_be_read_back(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["params"])
    (tmp_path / "params.yaml").write_text(result.stdout)
    assert load_params(tmp_path / "params.yaml") == Params()
    assert "#   model.hidden_size: 128 (64 x depth 2)" in result.stdout


@pytest.fixture
def inside(toy_project: ToyProject, monkeypatch: pytest.MonkeyPatch) -> ToyProject:
    """A toy project as the working directory."""
    monkeypatch.chdir(toy_project.root)
    monkeypatch.setenv("HALLMARK_TRACKING", "off")
    return toy_project


@pytest.mark.usefixtures("inside")
def test_params_can_show_what_was_shipped() -> None:
    shown = yaml.safe_load(CliRunner().invoke(app, ["params"]).stdout)
    shipped = yaml.safe_load(CliRunner().invoke(app, ["params", "--defaults"]).stdout)
    assert shown["model"]["depth"] == 1
    assert shipped["model"]["depth"] == Params().model.depth


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["summary"], "dvc.lock: nothing has been built here yet\n  next: dvc repro"),
        (["register", "mood"], "there is no task 'mood'; allowed: package"),
        (["promote", "mood"], "there is no task 'mood'; allowed: package"),
    ],
)
@pytest.mark.usefixtures("inside")
def test_known_errors_are_a_message_and_no_traceback(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    assert message in done.stderr
    assert isinstance(done.exception, SystemExit)


def test_wrong_settings_are_told_by_every_verb_that_reads_them(inside: ToyProject) -> None:
    (inside.root / "params.yaml").write_text("sede: 1\n")
    for verb in ("summary", "params", "register"):
        done = CliRunner().invoke(app, [verb])
        assert (done.exit_code, "did you mean seed?" in done.stderr) == (1, True), done


@pytest.mark.server
def test_ui_opens_on_the_builds_here(toy_project: ToyProject) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = toy_project.hallmark("ui", "--port", str(port), check=False)
        assert (done.returncode, "the port is taken" in done.stderr) == (1, True), done
    server = toy_project.start(sys.executable, "-m", "pipeline.cli", "ui", "--port", str(port))
    try:
        assert wait_until_up(f"http://127.0.0.1:{port}/health", server) == b"OK"
        experiments = post_json(f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search", {"max_results": 5})
        assert "hallmark" in [experiment["name"] for experiment in experiments["experiments"]]
        assert not (toy_project.root / "mlruns").exists()
        assert toy_project.git("status", "--porcelain") == ""
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.communicate()


def wait_until_up(address: str, server: subprocess.Popen[str]) -> bytes:
    until = time.monotonic() + 90
    while time.monotonic() < until and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=2) as answer:
                return answer.read()
        except OSError:
            time.sleep(0.2)
    os.killpg(server.pid, signal.SIGKILL)
    pytest.fail(f"the server did not come up:\n{server.communicate()[0]}")


def post_json(address: str, body: dict[str, object]) -> dict[str, list[dict[str, str]]]:
    request = urllib.request.Request(
        address, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


@pytest.mark.end_to_end
def test_summary_holds_every_figure(built_project: ToyProject) -> None:
    summary = json.loads(built_project.hallmark("summary", "--json").stdout)
    task = summary["tasks"]["package"]
    for figures in [task, *(task["baselines"][name] for name in ("majority", "tfidf", "scratch"))]:
        for headline in ("accuracy", "macro_f1"):
            assert 0 <= figures[headline]["low"] <= figures[headline]["value"] <= figures[headline]["high"] <= 1
    assert 0 < summary["pretrain"]["bits_per_byte"] < 8
    assert 0 < summary["pretrain"]["ngram_bits_per_byte"] < 8
    assert summary["pretrain"]["tokens_per_second"] > 0
    assert list(summary["stages"]) == [
        *("ingest", "validate", "import", "tokenizer", "encode", "ngram", "pretrain"),
        *("finetune@package", "scratch@package", "evaluate@package", "report", "register@package"),
    ]
    assert all(len(stage["key"]) == 64 for stage in summary["stages"].values())
    assert all(stage["seconds"] > 0 and stage["peak_memory_bytes"] > 1e7 for stage in summary["stages"].values())
    assert summary["missing"] == []


@pytest.mark.end_to_end
def test_summary_is_a_table_for_people(built_project: ToyProject) -> None:
    printed = built_project.hallmark("summary").stdout
    for words in ("task package", "TF-IDF, log. regression", "byte 5-gram", "tokens/s", "register@package"):
        assert words in printed
    assert "index.html" in printed


@pytest.mark.end_to_end
def test_summary_without_timings_still_has_its_figures(built_project: ToyProject, tmp_path: Path) -> None:
    """As on a machine where DVC brought the outputs from its cache."""
    restored = built_project.copy(tmp_path / "restored")
    shutil.rmtree(restored.root / ".hallmark")
    summary = json.loads(restored.hallmark("summary", "--json").stdout)
    assert summary["pretrain"]["tokens_per_second"] is None
    assert {stage["seconds"] for stage in summary["stages"].values()} == {None}
    assert "restored" in restored.hallmark("summary").stdout
    (restored.root / "metrics" / "pretrain.json").unlink()
    done = restored.hallmark("summary", check=False)
    assert (done.returncode, "next: dvc checkout" in done.stderr) == (1, True)
