"""Forks of a warm process are what fresh interpreters would be."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.common.processes import is_alive
from tests.warm import WarmPython

SHOWS = """
import os, sys
from pathlib import Path
print(__name__, sys.argv[1:], Path.cwd(), os.environ.get("SEASON"), sys.stdin.read())
sys.exit(int(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def python() -> Iterator[str]:
    warm = WarmPython(["fractions"], os.environ)
    yield str(warm.programs / "python")
    warm.close()


def run(python: str, *words: str, cwd: Path) -> tuple[int, str, str]:
    environment = os.environ | {"SEASON": "winter"}
    done = subprocess.run([python, *words], cwd=cwd, env=environment, input="read", capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["-m", "shows", "0", "b"],
        ["shows.py", "3"],
        ["-I", "shows.py", "0"],
        ["-u", "-c", SHOWS, "5", "x"],
        ["-c", "import sys; sys.exit('what is wrong')"],
        ["-c", f"import os; os.kill(os.getpid(), {int(signal.SIGKILL)})"],
    ],
)
def test_a_fork_does_what_python_does(python: str, tmp_path: Path, words: list[str]) -> None:
    (tmp_path / "shows.py").write_text(SHOWS, encoding="utf-8")
    assert run(python, *words, cwd=tmp_path) == run(sys.executable, *words, cwd=tmp_path)


def test_it_has_the_libraries_already_and_starts_forks_itself(python: str, tmp_path: Path) -> None:
    code = "import sys; print('fractions' in sys.modules, sys.executable)"
    assert run(python, "-c", code, cwd=tmp_path) == (0, f"True {python}\n", "")
    assert run(sys.executable, "-c", code, cwd=tmp_path) == (0, f"False {sys.executable}\n", "")


def test_an_interrupt_is_passed_on(python: str) -> None:
    code = """
import time
try:
    print("waits", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted")
"""
    with subprocess.Popen([python, "-c", code], stdout=subprocess.PIPE, text=True) as asking:
        assert asking.stdout
        assert asking.stdout.readline() == "waits\n"
        asking.send_signal(signal.SIGINT)
        assert asking.stdout.read() == "interrupted\n"
    assert asking.returncode == 0


def test_a_fork_ends_with_who_asked_for_it(python: str) -> None:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    with subprocess.Popen([python, "-c", code], stdout=subprocess.PIPE, text=True) as asking:
        assert asking.stdout
        fork = int(asking.stdout.readline())
        assert fork != asking.pid
        asking.kill()
        while is_alive(fork):
            time.sleep(0.01)
