"""The MLflow store in use: a server by `MLFLOW_TRACKING_URI`, else SQLite below the project's ignored folder."""

import atexit
import logging
import os
import sqlite3
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pipeline.common.environment import be_quiet
from pipeline.common.errors import HallmarkError
from pipeline.common.layout import home

EXPERIMENT = "hallmark"
SQLITE = "sqlite:///"
PATIENCE = {  # of MLflow's HTTP client; retrying is the mirror's work
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
be_quiet()
for _name, _value in PATIENCE.items():
    os.environ.setdefault(_name, _value)

import mlflow  # noqa: E402 - it reads the environment when it is imported
from filelock import FileLock  # noqa: E402
from mlflow.entities import Experiment  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402
from sqlalchemy.exc import SQLAlchemyError  # noqa: E402

TRACKER_ERRORS = (MlflowException, SQLAlchemyError, sqlite3.Error, OSError)


@dataclass(frozen=True)
class Store:
    """An open tracking store and registry.

    Attributes:
        uri: the tracking address.
        identity: names this very experiment; a new database at the same address has another.
    """

    uri: str
    identity: str
    experiment_id: str
    client: MlflowClient

    def link(self, run_id: str) -> str:
        """The address of a run inside the MLflow UI, below the server's own address."""
        return f"#/experiments/{self.experiment_id}/runs/{run_id}"


def tracking_uri() -> str:
    """Where runs and models go. The default is absolute: the working directory does not matter."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{(home() / 'mlflow' / 'mlflow.db').as_posix()}"


def open_store(experiment: str | None = None) -> Store:
    """Open the store in use, and make its database and experiment at the first time.

    Args:
        experiment: the experiment's name; `MLFLOW_EXPERIMENT_NAME` or "hallmark" without it.

    Raises:
        HallmarkError: it does not answer, or the experiment was deleted.
    """
    uri = tracking_uri()
    name = experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    for logger in ("alembic", "mlflow.store", "mlflow.tracking"):
        logging.getLogger(logger).setLevel(logging.WARNING)
    mlflow.set_tracking_uri(uri)  # some of MLflow's calls look nowhere else
    try:
        if uri.startswith(SQLITE):
            database = Path(uri.removeprefix(SQLITE)).resolve()
            database.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(database.with_name(database.name + ".lock")):  # two that open a new database at once crash
                return _open(uri, name, artifacts=database.parent / "artifacts", database=database)
        return _open(uri, name)
    except TRACKER_ERRORS as error:
        reason = str(error).strip().splitlines()[0][:300]
        raise HallmarkError(
            f"MLflow does not answer: {reason}",
            where=uri,
            fix="start the server or mend MLFLOW_TRACKING_URI, then type `hallmark sync`",
        ) from error


def _open(uri: str, name: str, artifacts: Path | None = None, database: Path | None = None) -> Store:
    client = MlflowClient(tracking_uri=uri, registry_uri=os.environ.get("MLFLOW_REGISTRY_URI") or uri)
    found = client.get_experiment_by_name(name) or _create_experiment(client, name, artifacts)
    if found.lifecycle_stage == "deleted":
        raise HallmarkError(
            f"the experiment {name!r} was deleted there",
            where=uri,
            fix=f"mlflow experiments restore --experiment-id {found.experiment_id}",
        )
    if database is not None:
        _tell(database, "PRAGMA journal_mode=WAL")  # readers and one writer work at once; SQLite remembers it
        _leave_one_file(database)
    identity = f"{uri}#{found.experiment_id}@{found.creation_time}"
    return Store(uri, identity, found.experiment_id, client)


def _create_experiment(client: MlflowClient, name: str, artifacts: Path | None) -> Experiment:
    location = (artifacts / name).as_uri() if artifacts else None  # a server decides for itself
    try:
        client.create_experiment(name, artifact_location=location)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    created = client.get_experiment_by_name(name)
    if created is None:
        raise MlflowException(f"the experiment {name!r} was not created")
    return created


@cache
def _leave_one_file(database: Path) -> None:
    """See that no log lies beside the database when this process ends: nobody closes MLflow's connections to it."""

    def empty_log() -> None:
        if database.exists():
            with suppress(sqlite3.Error):  # another process writes, and will do it
                _tell(database, "PRAGMA wal_checkpoint(TRUNCATE)")

    atexit.register(empty_log)


def _tell(database: Path, statement: str) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute(statement).fetchall()
