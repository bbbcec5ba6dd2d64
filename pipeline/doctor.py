"""`hallmark doctor`: what on this machine could make a build fail, and for each fault what to type."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pipeline.common.compiler import find_compiler
from pipeline.common.errors import HallmarkError
from pipeline.common.files import read_json
from pipeline.common.layout import home
from pipeline.common.params import load_params
from pipeline.common.processes import is_alive
from pipeline.corpus.installed import CONSTRAINTS, read_constraints

OLDEST_PYTHON = (3, 11)
FREE_GIGABYTES = 5  # a default build keeps about 1 GB; a second one and DVC's cache as much again
PORTS = {
    5000: ("MLflow", "hallmark ui --port 5001"),
    4200: ("Prefect", "prefect config set PREFECT_SERVER_API_PORT=4201"),
}
REINSTALL = "make install"
RWLOCK = Path(".dvc/tmp/rwlock")
COMPILERS = {
    "linux": "sudo apt install g++ (or your system's package)",
    "darwin": "xcode-select --install",
    "win32": "winget install Microsoft.VisualStudio.2022.BuildTools, with the C++ workload",
}


@dataclass(frozen=True)
class Finding:
    """What one check found. `level`: ok; note (slower or worth knowing); fault (a build or a service will fail)."""

    name: str
    level: str
    what: str
    fix: str | None = None

    @property
    def is_fault(self) -> bool:
        return self.level == "fault"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def examine() -> list[Finding]:
    """Run every check. A check that itself fails is a fault, and the others still run."""
    findings: list[Finding] = []
    for check in CHECKS:
        try:
            findings += check()
        except HallmarkError as error:
            where = f"{error.where}: " if error.where else ""
            findings.append(Finding(check.__name__.removeprefix("check_"), "fault", f"{where}{error.what}", error.fix))
        except Exception as error:  # whatever is broken here, the other checks still tell of it
            what = f"this check failed: {type(error).__name__}: {error}"
            findings.append(Finding(check.__name__.removeprefix("check_"), "fault", what, REINSTALL))
    return findings


def print_findings(findings: list[Finding]) -> None:
    marks = {"ok": "ok   ", "note": "note ", "fault": "FAULT"}
    for finding in findings:
        print(f"{marks[finding.level]}  {finding.name:<10}  {finding.what}")
        if finding.fix:
            print(f"{'':17}  next: {finding.fix}")
    faults = sum(finding.is_fault for finding in findings)
    print(f"{faults} fault{'' if faults == 1 else 's'}")


def check_python() -> Iterator[Finding]:
    here = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < OLDEST_PYTHON:
        yield Finding("python", "fault", f"{here}; 3.11 or newer is needed", "make clean repro PYTHON=python3.11")
    elif sys.prefix == sys.base_prefix:
        yield Finding("python", "note", f"{here}, outside a virtual environment", "make install")
    else:
        yield Finding("python", "ok", f"{here} in {sys.prefix}")


def check_path() -> Iterator[Finding]:
    """DVC starts the stages as `python -m …`: that has to be this Python."""
    found = shutil.which("python")
    here = Path(sys.executable).parent
    if found and Path(found).parent.resolve() == here.resolve():
        yield Finding("path", "ok", f"`python` is {found}")
    else:
        activate = ".venv\\Scripts\\activate" if os.name == "nt" else "source .venv/bin/activate"
        what = f"`python` is {found or 'nowhere'}, not the one in {here}: `dvc repro` would use the wrong one"
        yield Finding("path", "fault", what, f"{activate} (`make repro` does it by itself)")


def check_versions() -> Iterator[Finding]:
    pins = read_constraints(CONSTRAINTS)
    installed = {name: _installed_version(name) for name in pins}
    different = [name for name, pinned in pins.items() if installed[name] != pinned]
    if not different:
        yield Finding("versions", "ok", f"all {len(pins)} packages as pinned in {CONSTRAINTS}")
        return
    # The pins are made on Linux: elsewhere some of the packages do not exist.
    harmless = sys.platform != "linux" and all(installed[name] is None for name in different)
    listed = [f"{name} {installed[name] or 'missing'}, pinned {pins[name]}" for name in different]
    shown = "; ".join(listed[:10]) + ("; …" if len(listed) > 10 else "")
    what = f"{len(different)} of {len(pins)} packages are not as pinned: {shown}"
    yield Finding("versions", "note" if harmless else "fault", what, None if harmless else REINSTALL)


def _installed_version(name: str) -> str | None:
    """The installed version without its local part: torch 2.13.0+cpu and 2.13.0 are one release."""
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return None


def check_settings() -> Iterator[Finding]:
    params = load_params()
    yield Finding("settings", "ok", f"params.yaml: {params.source.kind}, tasks {', '.join(params.tasks)}")
    if params.source.reads_files and not Path(params.source.path).is_dir():
        yield Finding(
            "settings", "fault", f"source.path {params.source.path} is no folder", "mend source.path in params.yaml"
        )


def check_git() -> Iterator[Finding]:
    if shutil.which("git") is None:
        yield Finding("git", "fault", "git is not installed; DVC and the lineage need it", "install git")
        return
    command = ["git", "status", "--porcelain", "--untracked-files=no"]
    status = subprocess.run(command, capture_output=True, text=True)
    if status.returncode:
        yield Finding("git", "fault", status.stderr.strip().splitlines()[0], "git init && git add . && git commit")
    elif changed := len(status.stdout.splitlines()):
        yield Finding("git", "note", f"{changed} tracked files changed: builds are marked dirty", "git commit")
    else:
        yield Finding("git", "ok", "clean: a build names its commit")


def check_compiler() -> Iterator[Finding]:
    if compiler := find_compiler():
        yield Finding("compiler", "ok", compiler)
    else:
        what = "no C++ compiler: training runs eager, about half as fast on a CPU"
        yield Finding("compiler", "note", what, COMPILERS.get(sys.platform, "install a C++ compiler"))


def check_disk() -> Iterator[Finding]:
    free = shutil.disk_usage(".").free / 1e9
    if free < FREE_GIGABYTES:
        what = f"{free:.1f} GB free, {FREE_GIGABYTES} GB may be needed"
        yield Finding("disk", "fault", what, "dvc gc --workspace (drops the outputs of other builds from DVC's cache)")
    else:
        yield Finding("disk", "ok", f"{free:.0f} GB free")


def check_ports() -> Iterator[Finding]:
    for port, (service, fix) in PORTS.items():
        if not _is_listening(port):
            yield Finding("ports", "ok", f"{port} is free for {service}")
        elif _answers(port, "/health" if service == "MLflow" else "/api/health"):
            yield Finding("ports", "ok", f"{port}: {service} is running")
        else:
            yield Finding("ports", "note", f"{port} is taken by something that is not {service}", fix)


def _is_listening(port: int) -> bool:
    with socket.socket() as connection:
        connection.settimeout(1)
        return connection.connect_ex(("127.0.0.1", port)) == 0


def _answers(port: int, path: str) -> bool:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def check_locks() -> Iterator[Finding]:
    """DVC notes in its rwlock who reads and writes what; it clears the entries of dead processes itself."""
    holders = _lock_holders()
    alive = sorted(pid for pid in holders if is_alive(pid))
    if alive:
        what = f"DVC is at work here, process {', '.join(map(str, alive))}: {holders[alive[0]]}"
        yield Finding("locks", "note", what, "wait, or stop it with Ctrl-C where it runs")
    elif holders:
        yield Finding("locks", "note", "a DVC that was killed left a lock; the next one clears it", "dvc repro")
    else:
        yield Finding("locks", "ok", "no lock is held")
    index_lock = Path(".git/index.lock")
    if index_lock.exists():
        yield Finding("locks", "note", f"{index_lock} is there: git is at work, or was killed", f"rm {index_lock}")


def _lock_holders() -> dict[int, str]:
    if not RWLOCK.exists() or not RWLOCK.read_text(encoding="utf-8").strip():
        return {}
    holders: dict[int, str] = {}
    for entry in read_json(RWLOCK).values():
        for holder in [entry["write"]] if entry.get("write") else []:
            holders[int(holder["pid"])] = holder["cmd"]
        for holder in entry.get("read", []):
            holders[int(holder["pid"])] = holder["cmd"]
    return holders


def check_processes() -> Iterator[Finding]:
    """A stage whose dvc is gone goes on writing the files that the next `dvc repro` writes."""
    import psutil

    orphans = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(Path.cwd()) and _is_stage(process.cmdline()) and not _has_dvc_above(process):
                orphans.append((process.pid, " ".join(process.cmdline())))
        except psutil.Error:  # it has ended, or is not ours to look at
            continue
    for pid, command in orphans:
        yield Finding("processes", "fault", f"process {pid} runs without its dvc: {command}", f"kill {pid}")
    if not orphans:
        yield Finding("processes", "ok", "no stage runs without its dvc")


def _is_stage(command: list[str]) -> bool:
    return any(part.startswith("pipeline.stages.") for part in command)


def _has_dvc_above(process: Any) -> bool:
    from pipeline.tracking.build import is_dvc

    return any(is_dvc(parent.cmdline()) for parent in process.parents())


def check_runs() -> Iterator[Finding]:
    from pipeline.tracking.builds import is_over, read_builds

    dead = [str(record["build"]) for record in read_builds() if "ended" not in record and is_over(record)]
    if dead:
        what = f"MLflow may show as running what has ended: {', '.join(dead)}"
        yield Finding("runs", "note", what, "hallmark reap")
    else:
        yield Finding("runs", "ok", "no build without its process")


def check_processor() -> Iterator[Finding]:
    import torch

    from pipeline.training.runtime import cpu_has_bfloat16

    threads = torch.get_num_threads()
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 1e9
        yield Finding("gpu", "ok", f"{torch.cuda.get_device_name()}, {memory:.0f} GB, torch {torch.__version__}")
    elif shutil.which("nvidia-smi"):
        what = f"an NVIDIA driver is here, but torch {torch.__version__} sees no GPU"
        release = _installed_version("torch")
        mend = f"python -m pip install --force-reinstall --no-deps torch=={release}, or mend the driver"
        yield Finding("gpu", "fault", what, mend)
    else:
        yield Finding("gpu", "note", f"none: training runs on {threads} CPU threads")
    if cpu_has_bfloat16():
        yield Finding("bfloat16", "ok", "this processor has bfloat16 instructions")
    else:
        yield Finding("bfloat16", "note", "this processor has no bfloat16 instructions: float32 is used on the CPU")


def check_state() -> Iterator[Finding]:
    folder = home()
    probe = folder if folder.exists() else folder.parent
    if os.access(probe, os.W_OK):
        yield Finding("state", "ok", f"journals, checkpoints and MLflow's database are in {folder}")
    else:
        yield Finding("state", "fault", f"{folder} cannot be written to", f"chown -R $USER {folder}")


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    check_python,
    check_path,
    check_versions,
    check_settings,
    check_git,
    check_compiler,
    check_disk,
    check_ports,
    check_locks,
    check_processes,
    check_runs,
    check_processor,
    check_state,
)
