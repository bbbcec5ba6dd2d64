"""`hallmark ui`: MLflow's own server on the store in use, with what it does not need switched off."""

import os
import socket
import subprocess
import sys

from pipeline.common.errors import HallmarkError
from pipeline.common.layout import home

HOST = "127.0.0.1"
# One worker and no job runner: 2 processes and 0.5 GB instead of 15 and 2 GB, and up in 6 s instead of 25.
LIGHT = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def serve_ui(port: int) -> int:
    """Serve the UI until it is interrupted; where a tracking server is in use, only say where its UI is.

    Returns:
        The exit status of the server.

    Raises:
        HallmarkError: the port is taken, or the store does not answer.
    """
    from pipeline.tracking.mlflow_store import open_store

    store = open_store()  # makes the database, should this be the first use
    page = f"?workflowType=machine_learning#/experiments/{store.experiment_id}"
    if store.uri.startswith("http"):
        print(f"runs and models are on {store.uri.rstrip('/')}/{page}")
        return 0
    _check_port(port)
    print(f"MLflow UI: http://{HOST}:{port}/{page}\nCtrl-C ends it", flush=True)
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store.uri]
    command += ["--artifacts-destination", (home() / "mlflow" / "artifacts").as_uri()]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]
    try:
        return subprocess.run(command, env=os.environ | LIGHT).returncode
    except KeyboardInterrupt:
        return 0


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise HallmarkError(
                f"the port is taken ({error})", where=f"{HOST}:{port}", fix="hallmark ui --port 5001"
            ) from None
