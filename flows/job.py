"""What a worker starts for a flow run (`prefect.yaml`): tie it to its worker, then become Prefect's engine.

When the worker dies, however it dies, Linux sends SIGTERM to the run: its stages save and stop, and the run is
reported as crashed. Without this it would go on unseen, and hold the GPU.
"""

import os
import sys
from pathlib import Path

from pipeline.common.processes import die_with_parent

CODE_ROOT = Path(__file__).resolve().parents[1]
WORKER_PID = "HALLMARK_WORKER_PID"  # set by flows.worker


def main() -> None:
    worker = os.environ.get(WORKER_PID)
    die_with_parent(int(worker) if worker else None)  # it stays in force across exec
    os.chdir(CODE_ROOT)
    os.execv(sys.executable, [sys.executable, "-m", "prefect.engine"])


if __name__ == "__main__":
    main()
