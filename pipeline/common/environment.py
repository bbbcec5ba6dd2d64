"""What every process of the project settles before it imports a heavy library."""

import atexit
import gc
import os

QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}


COLLECT_AFTER = 10_000  # new objects; Python's own 700 is a collection for every few functions that a library defines


def be_quiet() -> None:
    """Switch off telemetry and network look-ups, unless the user set a variable otherwise."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def be_quick() -> None:
    """Search less often for garbage while libraries are imported, and not at all when the process ends.

    Neither search finds any, and together they take a third of a short process's time.
    """
    gc.set_threshold(COLLECT_AFTER, *gc.get_threshold()[1:])
    atexit.register(gc.freeze)  # what is frozen is not searched
