"""`hallmark doctor` finds each fault that it is for, and says what to type."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import doctor
from pipeline.doctor import Finding, examine
from tests.toy import REPOSITORY, ToyProject


@pytest.fixture
def inside(toy_project: ToyProject, monkeypatch: pytest.MonkeyPatch) -> ToyProject:
    monkeypatch.chdir(toy_project.root)
    monkeypatch.setenv("PATH", toy_project.environment["PATH"])
    return toy_project


def only(findings: Iterator[Finding]) -> Finding:
    [finding] = findings
    return finding


def test_a_healthy_project_has_no_fault(toy_project: ToyProject) -> None:
    done = toy_project.hallmark("doctor", "--json", check=False)
    findings = json.loads(done.stdout)
    assert [each for each in findings if each["level"] == "fault"] == []
    assert done.returncode == 0
    assert {"python", "versions", "settings", "git", "disk", "locks", "gpu"} <= {each["name"] for each in findings}


def test_every_fault_and_note_that_can_be_mended_says_what_to_type(inside: ToyProject) -> None:
    (inside.root / "constraints.txt").write_text("numpy==0.1\n")
    (inside.root / "params.yaml").write_text("sede: 1\n")
    shutil.rmtree(inside.root / ".git")
    faults = {finding.name: finding for finding in examine() if finding.is_fault}
    assert set(faults) >= {"versions", "settings", "git"}
    assert "1 of 1 packages are not as pinned: numpy" in faults["versions"].what
    assert faults["versions"].fix == "make install"
    assert "did you mean seed?" in faults["settings"].what
    assert "git init" in str(faults["git"].fix)


def test_the_pins_are_what_is_installed() -> None:
    assert only(doctor.check_versions()).level == "ok"
    pins = doctor.CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    assert "torch==2.13.0" in pins
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[^+;]+", line) for line in pins if not line.startswith("#"))
    assert not [line for line in pins if line.startswith(("nvidia", "triton", "hallmark"))]


def test_a_check_that_breaks_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def check_luck() -> Iterator[Finding]:
        yield Finding("luck", "ok", "so far")
        raise RuntimeError("out of it")

    monkeypatch.setattr(doctor, "CHECKS", (check_luck, doctor.check_python))
    levels = {finding.name: finding.level for finding in examine()}
    assert levels == {"luck": "fault", "python": "ok"}


def test_the_wrong_python_on_the_path_is_a_fault(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    finding = only(doctor.check_path())
    assert finding.is_fault
    assert "nowhere" in finding.what
    assert "activate" in str(finding.fix)


def test_a_missing_compiler_is_a_note(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    finding = only(doctor.check_compiler())
    assert (finding.level, finding.name) == ("note", "compiler")
    assert finding.fix


def test_a_full_disk_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "FREE_GIGABYTES", 10**9)
    finding = only(doctor.check_disk())
    assert finding.is_fault
    assert "dvc gc" in str(finding.fix)


def test_a_port_that_is_taken_by_another_program_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        server.close()
        monkeypatch.setattr(doctor, "PORTS", {port: ("MLflow", "hallmark ui --port 5001")})
        assert "is free" in only(doctor.check_ports()).what
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as other:
        assert other.stdout
        port = int(other.stdout.readline().split("port ")[1].split()[0])
        monkeypatch.setattr(doctor, "PORTS", {port: ("MLflow", "hallmark ui --port 5001")})
        finding = only(doctor.check_ports())
        other.kill()
    assert f"{port} is taken by something that is not MLflow" in finding.what


def test_a_stage_without_its_dvc_is_found(inside: ToyProject) -> None:
    """The stand-in has a stage's name among its arguments and no dvc above it."""
    code = "import sys; print('up', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, "pipeline.stages.pretrain"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as orphan:
        assert orphan.stdout
        assert orphan.stdout.readline() == "up\n"
        finding = only(doctor.check_processes())
        orphan.kill()
    assert f"process {orphan.pid} runs without its dvc" in finding.what
    assert finding.fix == f"kill {orphan.pid}"
    assert not only(doctor.check_processes()).is_fault


def test_locks_tell_who_holds_them(inside: ToyProject) -> None:
    assert only(doctor.check_locks()).level == "ok"
    lock = inside.root / doctor.RWLOCK
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text(json.dumps({"/data": {"write": {"pid": os.getpid(), "cmd": "dvc repro"}, "read": []}}))
    finding = only(doctor.check_locks())
    assert f"process {os.getpid()}: dvc repro" in finding.what
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    lock.write_text(json.dumps({"/data": {"read": [{"pid": gone.pid, "cmd": "dvc repro"}]}}))
    assert "was killed" in only(doctor.check_locks()).what


def test_outside_a_project_the_command_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline.cli", "doctor"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "this folder is no Hallmark project" in done.stderr
    assert "Traceback" not in done.stderr
