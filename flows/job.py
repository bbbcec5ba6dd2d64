"""What a worker starts for a flow run (`prefect.yaml`): tie it to its worker, then be Prefect's engine.

When the worker dies, however it dies, Linux sends SIGTERM to the run: its stages save and stop, and the run is
reported as crashed. Without this it would go on unseen, and hold the GPU.
"""

import io
import os
import runpy
import sys
from pathlib import Path
from typing import TextIO

from pipeline.common.environment import be_quick
from pipeline.common.processes import die_with_parent

CODE_ROOT = Path(__file__).resolve().parents[1]
WORKER_PID = "HALLMARK_WORKER_PID"  # set by flows.worker


class Output(io.TextIOWrapper):
    """Text output that goes nowhere, in silence, once its reader is dead.

    A run's output goes through a pipe to its worker. Prefect logs a crash just before it reports it, and a log line
    that a dead worker cannot read ends the process (Rich does that): the run would show as running for ever.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream.buffer, "utf-8", "replace", line_buffering=True)

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except BrokenPipeError:
            self._lead_nowhere()
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except BrokenPipeError:
            self._lead_nowhere()

    def _lead_nowhere(self) -> None:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self.fileno())


def main() -> None:
    worker = os.environ.get(WORKER_PID)
    die_with_parent(int(worker) if worker else None)
    sys.stdout, sys.stderr = Output(sys.stdout), Output(sys.stderr)
    os.chdir(CODE_ROOT)
    be_quick()
    runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
