"""A stage dies with what started it, also with a shell between the two."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.common.processes import is_alive
from tests.waiting import wait_until

STAGE = """
import os, time
from pathlib import Path
from pipeline.common.processes import die_with_parent
die_with_parent()
Path({ready!r}).write_text(str(os.getpid()))
time.sleep(120)
"""
STARTER = "import subprocess; subprocess.run({command!r}, shell={shell})"


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells a process that its parent has died")
@pytest.mark.parametrize("between", ["nothing", "a shell that waits"])
def test_a_stage_dies_with_a_killed_parent(tmp_path: Path, between: str) -> None:
    script, ready = tmp_path / "stage.py", tmp_path / "ready"
    script.write_text(STAGE.format(ready=str(ready)))
    direct: list[str] = [sys.executable, str(script)]
    # the second command keeps every shell from becoming the first one
    command: object = direct if between == "nothing" else f"{sys.executable} {script}; true"
    starter = STARTER.format(command=command, shell=between != "nothing")
    environment = {"PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", starter], env=environment) as process:
        wait_until(lambda: ready.exists() and ready.read_text())
        stage = int(ready.read_text())
        process.kill()
    wait_until(lambda: not is_alive(stage))
