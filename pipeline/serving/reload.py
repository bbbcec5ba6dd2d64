"""Load a saved model in a fresh process, as a server would, and let it predict.

`python -I reload.py MODEL REQUESTS ANSWERS [refusals]` is that process. It sees neither PYTHONPATH nor the folder of
this file, and must neither unpickle anything nor round to int8; it imports nothing of the project but what the saved
model brings along.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 600
FORBIDDEN = {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "HALLMARK_INT8": "0"}


def predict_in_fresh_process(
    saved: Path | str,
    requests: list[Any],
    device: str | None = None,
    *,
    environment: Mapping[str, str] = {},
    refusals: bool = False,
    timeout: float | None = TIMEOUT_SECONDS,
) -> list[dict[str, Any]]:
    """The answers of a saved model to `requests`.

    Args:
        saved: folder of an MLflow model, or the URI of a registered one.
        requests: what to ask: texts, or what the kind of task is asked.
        device: cpu or cuda; None leaves it to the model.
        environment: more variables of the process.
        refusals: a request that the model fails at is no failure of the process, unless it fails at all of them. Its
            answer is then `{"refused": WHY}`.
        timeout: seconds; None: as long as it takes.

    Returns:
        For each an answer as JSON has it: see the served file of the kind of task.

    Raises:
        RuntimeError: the process failed; carries what it printed last.
    """
    model = str(saved.resolve()) if isinstance(saved, Path) else saved
    with tempfile.TemporaryDirectory(prefix="hallmark-reload-") as folder:
        asked, answered = Path(folder) / "requests.json", Path(folder) / "answers.json"
        asked.write_text(json.dumps(requests), encoding="utf-8")
        command = [sys.executable, "-I", __file__, model, str(asked), str(answered)]
        done = subprocess.run(
            [*command, "refusals"] if refusals else command,
            cwd=folder,
            env={**os.environ, **FORBIDDEN, **environment, **({"HALLMARK_DEVICE": device} if device else {})},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        if done.returncode != 0:
            raise RuntimeError(done.stderr[-3000:])
        return json.loads(answered.read_text(encoding="utf-8"))


def _main(saved: str, asked: str, answered: str, *refusals: str) -> None:
    import mlflow.pyfunc

    model: Any = mlflow.pyfunc.load_model(saved)
    requests = json.loads(Path(asked).read_text(encoding="utf-8"))
    try:
        answers = _ask(model, requests)
    except Exception:
        if not refusals:
            raise
        answers = _ask_each(model, requests)
    Path(answered).write_text(json.dumps(answers), encoding="utf-8")


def _ask(model: Any, requests: list[Any]) -> list[dict[str, Any]]:
    answers = model.predict(requests)
    return [answer if isinstance(answer, dict) else answer.model_dump() for answer in answers]


def _ask_each(model: Any, requests: list[Any]) -> list[dict[str, Any]]:
    answers, refused = [], None
    for request in requests:
        try:
            answers += _ask(model, [request])
        except Exception as error:
            answers.append({"refused": str(error)})
            refused = error
    if refused is not None and all("refused" in answer for answer in answers):
        raise refused
    return answers


if __name__ == "__main__":
    _main(*sys.argv[1:])
