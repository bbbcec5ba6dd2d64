"""Load a saved model in a fresh process, as a server would, and let it predict.

`python -I reload.py MODEL REQUESTS ANSWERS` is that process. It sees neither PYTHONPATH nor the folder of this file,
and must neither unpickle anything nor round to int8; it imports nothing of the project but what the saved model brings
along.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 600
FORBIDDEN = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "HALLMARK_INT8": "0"}


def predict_in_fresh_process(saved: Path, requests: list[Any], device: str | None = None) -> list[dict[str, Any]]:
    """The answers of the model saved in `saved` to `requests`.

    Args:
        saved: folder of an MLflow model.
        requests: what to ask: texts, or what the kind of task is asked.
        device: cpu or cuda; None leaves it to the model.

    Returns:
        For each an answer as JSON has it: see the served file of the kind of task.

    Raises:
        RuntimeError: the process failed; carries what it printed last.
    """
    with tempfile.TemporaryDirectory(prefix="hallmark-reload-") as folder:
        asked, answered = Path(folder) / "requests.json", Path(folder) / "answers.json"
        asked.write_text(json.dumps(requests), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-I", __file__, str(saved.resolve()), str(asked), str(answered)],
            cwd=folder,
            env={**os.environ, **FORBIDDEN, **({"HALLMARK_DEVICE": device} if device else {})},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
        if done.returncode != 0:
            raise RuntimeError(done.stderr[-3000:])
        return json.loads(answered.read_text(encoding="utf-8"))


def _main(saved: str, asked: str, answered: str) -> None:
    import mlflow.pyfunc

    model: Any = mlflow.pyfunc.load_model(saved)
    requests = json.loads(Path(asked).read_text(encoding="utf-8"))
    answers = [answer.model_dump() for answer in model.predict(requests)]
    Path(answered).write_text(json.dumps(answers), encoding="utf-8")


if __name__ == "__main__":
    _main(*sys.argv[1:])
