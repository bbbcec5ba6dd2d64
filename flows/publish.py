"""What a rebuild tells MLflow, in a process of its own: MLflow takes seconds to import, and a flow has none to lose.

The process is started first, gets ready while the flow imports Prefect and makes its plan, and waits on its standard
input for what to publish. A tracker that is away costs a warning and fails no build: what it misses is kept, and sent
by the next build or by `hallmark sync`.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from flows.job import CODE_ROOT
from pipeline.common.environment import be_quick, be_quiet
from pipeline.common.errors import HallmarkError
from pipeline.common.layout import home
from pipeline.common.processes import die_with_parent


class Publisher:
    """The process, seen from the flow. It dies with the flow."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "flows.publish", str(os.getpid())],
            cwd=CODE_ROOT,
            env={**os.environ, "HALLMARK_HOME": str(home())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )

    def begin(self, folder: Path, environment: Mapping[str, str], tasks: Sequence[str]) -> None:
        """Let it publish the build in `folder`, and the registered models of `tasks`.

        Args:
            folder: what is built.
            environment: what the stages of the build had in theirs.
            tasks: of params.yaml.
        """
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # then `finish` says why
            self._process.stdin.write(json.dumps([str(folder), dict(environment), list(tasks)]) + "\n")
            self._process.stdin.flush()

    def finish(self, say: Callable[[str], object], warn: Callable[[str], object]) -> None:
        """Wait for its end and pass on what it says."""
        output, _ = self._process.communicate()
        for line in output.splitlines():
            (warn if self._process.returncode or line.startswith("warning: ") else say)(line)

    def dismiss(self) -> None:
        """End it, if it is not needed, or the flow fails."""
        self._process.kill()
        self._process.wait()


_early: list[Publisher] = []


def start_early() -> None:
    """Start the process that `take_publisher` will give, before there is any use for it."""
    _early.append(Publisher())


def take_publisher() -> Publisher:
    """A process for one build: the one that was started early, or a new one."""
    return _early.pop() if _early else Publisher()


def publish(tasks: Sequence[str]) -> list[str]:
    """Send what MLflow lacks of the build that the environment names, restored stages too, and put models that its
    registry lacks there.

    Returns:
        What was done, in sentences.

    Raises:
        HallmarkError: the registry does not take a model.
    """
    from pipeline.tracking.registry import register_task
    from pipeline.tracking.sync import sync_build

    report = sync_build()
    return [*report.lines(), *(register_task(task) for task in tasks if report.reached)]


def _get_ready() -> None:
    from pipeline.tracking import registry, sync  # noqa: F401 - the import is what takes the time
    from pipeline.tracking.mlflow_store import open_store

    with suppress(HallmarkError):  # publishing will say it
        open_store()


def main() -> None:
    die_with_parent(int(sys.argv[1]))
    be_quiet()
    be_quick()
    from pipeline.tracking.mirror import is_off

    if not is_off():
        _get_ready()
    request = sys.stdin.readline()
    if not request:
        return
    folder, environment, tasks = json.loads(request)
    os.chdir(folder)
    os.environ |= environment
    try:
        lines = ["tracking is off (HALLMARK_TRACKING)"] if is_off() else publish(tasks)
    except HallmarkError as error:
        sys.exit(f"hallmark: {error}")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
