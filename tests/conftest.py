"""Fixtures that every test may use: a toy project, and one that is already built."""

import os
import signal

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several test processes share the cores
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's `&` sets it, for everything that the tests start, too
    signal.signal(signal.SIGINT, signal.default_int_handler)

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tests.toy import ToyProject, make_toy_project


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
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    root, failure = shared / "built", shared / "built.failed"
    with FileLock(shared / "built.lock"):
        if failure.exists():
            pytest.fail(f"the toy build failed in another test process:\n{failure.read_text()}")
        if not (root / "dvc.lock").exists():
            try:
                make_toy_project(root).repro()
            except BaseException as error:
                failure.write_text(str(error))
                raise
    return ToyProject(root)
