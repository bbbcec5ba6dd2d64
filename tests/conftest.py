"""Fixtures that every test may use: a toy project, and one that is already built."""

import gc
import os
import signal
import subprocess
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several test processes share the cores
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # where a test takes two threads, none spins
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's `&` sets it, for everything that the tests start, too
    signal.signal(signal.SIGINT, signal.default_int_handler)

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import settings

from pipeline.common.environment import be_quick
from tests.toy import PYTHON, REPOSITORY, WARM, ToyProject, build_once, make_toy_project, warm_python

be_quick()
if PYTHON in os.environ:
    sys.executable = os.environ[PYTHON]  # a test process may be a fork, but what it starts is not
settings.register_profile("busy machine", deadline=None)
settings.load_profile("busy machine")


@pytest.fixture
def own_threads() -> Iterator[None]:
    """The test may set torch's number of threads; behind it, it is as before."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def make_toy(tmp_path: Path) -> Callable[..., ToyProject]:
    """Makes toy projects with changed settings: `make_toy(params={"model": {...}}, name="second")`."""

    def make(params: dict[str, Any] | None = None, name: str = "toy") -> ToyProject:
        return make_toy_project(tmp_path / name, params)

    return make


@pytest.fixture
def toy_project(make_toy: Callable[..., ToyProject]) -> ToyProject:
    """A project with its own text and labels, not built yet."""
    return make_toy()


@pytest.fixture(scope="session")
def built_project(tmp_path_factory: pytest.TempPathFactory) -> ToyProject:
    """A project after `dvc repro`, built once for all test processes. To change it, `.copy(tmp_path / "copy")` it."""
    shared = shared_folder(tmp_path_factory)
    build_once(shared)
    if (shared / "built.failed").exists():
        pytest.fail(f"the toy build failed:\n{(shared / 'built.failed').read_text()}")
    return ToyProject(shared / "built")


@pytest.fixture(scope="session")
def prefect_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new database of Prefect, made once for all test processes, to be copied: its migrations take seconds."""
    home = shared_folder(tmp_path_factory) / "prefect"
    with FileLock(f"{home}.lock"):
        if not home.exists():
            command = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
            subprocess.run(command, env=os.environ | {"PREFECT_HOME": str(home)}, capture_output=True, check=True)
    return home / "prefect.db"


@pytest.fixture
def warm_executable(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test starts by `sys.executable` is a fork of a process that has imported libraries."""
    if WARM in os.environ:
        monkeypatch.setattr(sys, "executable", f"{os.environ[WARM]}/python")


@pytest.fixture(autouse=True)
def same_search_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is loaded puts the code it came with first, for all tests and processes that would follow."""
    monkeypatch.setattr(sys, "path", list(sys.path))


def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The temporary folder that all test processes share."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def pytest_xdist_auto_num_workers() -> int:
    """One more test process than cores: those that wait for servers leave theirs idle."""
    return (os.cpu_count() or 1) + 1


def pytest_sessionstart(session: pytest.Session) -> None:
    """All test processes share one that imports what stages import, once one of them asks it to."""
    if "PYTEST_XDIST_WORKER" not in os.environ and hasattr(os, "pidfd_open"):
        python = warm_python()
        os.environ |= {WARM: str(python.programs), PYTHON: sys.executable}
        session.config.add_cleanup(python.close)


def pytest_xdist_setupnodes(config: pytest.Config, specs: list[Any]) -> None:
    """Test processes are forks of it, too: each would import the same for six seconds."""
    for spec in specs:
        if spec.popen and WARM in os.environ:
            spec.python = f"{os.environ[WARM]}/python"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests stay together, for they share what they start; files are begun in the order of collection."""
    from xdist.scheduler import LoadFileScheduling

    config.option.loadscopereorder = False
    return LoadFileScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files come first: those with servers, those with builds, and the others from `training` back to `common`."""
    place = {path: (0, number) for number, path in enumerate(dict.fromkeys(item.path for item in items))}
    for weight, marker in enumerate(("end_to_end", "server"), start=1):
        for item in items:
            if item.get_closest_marker(marker):
                place[item.path] = (weight, place[item.path][1])
    items.sort(key=lambda item: place[item.path], reverse=True)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Of several test processes, the first has the toy built at once: later, all others would wait for it."""
    gc.freeze()  # libraries and tests stay, so no search for garbage needs to look at them
    needed = any("built_project" in getattr(item, "fixturenames", ()) for item in session.items)
    if needed and os.environ.get("PYTEST_XDIST_WORKER") == "gw0":
        shared = session.config._tmp_path_factory.getbasetemp().parent  # type: ignore[attr-defined]
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)  # ours lead to pytest
        build = subprocess.Popen([sys.executable, "-m", "tests.toy", str(shared)], cwd=REPOSITORY, **pipes)
        session.config.add_cleanup(partial(end, build))


def end(build: subprocess.Popen[Any]) -> None:
    build.wait()
