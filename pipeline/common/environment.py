"""Environment variables that every process of the project sets before it imports a heavy library."""

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


def be_quiet() -> None:
    """Switch off telemetry and network look-ups, unless the user set a variable otherwise."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
