"""The model registry: one registered model per task, its versions by package hash, its aliases.

`challenger` is the version of the newest build, `champion` the one in use, `previous` the one in use before.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipeline.common.errors import HallmarkError, allowed
from pipeline.common.files import sha256_json
from pipeline.common.layout import REGISTERED, home
from pipeline.common.params import load_params
from pipeline.serving.package import read_package
from pipeline.serving.save import save_pyfunc
from pipeline.tracking.build import describe_build
from pipeline.tracking.mlflow_runs import build_tags, ensure_stage_run
from pipeline.tracking.mlflow_store import TRACKER_ERRORS, Store, open_store
from pipeline.tracking.runs import last_run
from pipeline.tracking.stage_key import decisive, locked_stages, stage_key

CHALLENGER, CHAMPION, PREVIOUS = "challenger", "champion", "previous"
NO_ANCESTORS = ("ngram", "register", "report")  # stages that no model descends from
PACKAGE_HASH = "hallmark.package_hash"


@dataclass(frozen=True)
class Version:
    """One version of a registered model.

    Attributes:
        name: of the registered model, see `model_name`.
        number: as the registry counts.
        aliases: that point to it now.
        tags: lineage: stage keys, commit, lock hash, package hash.
        created: seconds since the epoch.
    """

    name: str
    number: int
    aliases: tuple[str, ...]
    tags: Mapping[str, str]
    created: float

    @property
    def package_hash(self) -> str:
        return self.tags.get(PACKAGE_HASH, "")

    @property
    def uri(self) -> str:
        """What `mlflow.pyfunc.load_model` and `mlflow models serve -m` take."""
        return f"models:/{self.name}/{self.number}"


def model_name(task: str) -> str:
    return f"hallmark-{task}"


def versions(store: Store, name: str) -> list[Version]:
    """Every version of a registered model, oldest first; none if there is no such model."""
    try:
        aliases = store.client.get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return []
        raise
    found = store.client.search_model_versions(f"name = '{name}'", max_results=10_000)
    return sorted((_version(version, aliases) for version in found), key=lambda version: version.number)


def _version(found: ModelVersion, aliases: Mapping[str, str]) -> Version:
    pointing = tuple(sorted(alias for alias, number in aliases.items() if int(number) == int(found.version)))
    return Version(found.name, int(found.version), pointing, dict(found.tags), (found.creation_timestamp or 0) / 1000)


def get_version(store: Store, name: str, alias: str) -> Version | None:
    """The version that an alias points to, if there is one."""
    return next((version for version in versions(store, name) if alias in version.aliases), None)


def set_alias(store: Store, version: Version, alias: str) -> None:
    """Point an alias to this version, away from any other."""
    store.client.set_registered_model_alias(version.name, alias, str(version.number))


def delete_alias(store: Store, name: str, alias: str) -> None:
    store.client.delete_registered_model_alias(name, alias)


def lineage(task: str, root: Path | str = ".") -> dict[str, str]:
    """Where the model of a task comes from, as tags: commit, build, and the key of each stage it descends from.

    `hallmark.lock_hash` is over the entries of `dvc.lock` that made the model, so that it is the same while the stage
    `register` runs and after it.
    """
    entries = {
        name: entry
        for name, entry in locked_stages(root).items()
        if name.partition("@")[2] in ("", task) and name.partition("@")[0] not in NO_ANCESTORS
    }
    keys = {f"hallmark.stage_key.{name.partition('@')[0]}": _key(name, entry) for name, entry in entries.items()}
    tags = {"hallmark.task": task, "hallmark.lock_hash": sha256_json(entries)}
    return {**build_tags(describe_build()), **tags, **keys}


def _key(name: str, entry: Mapping[str, Any]) -> str:
    return stage_key(decisive(name, entry))


def register_package(
    store: Store, task: str, package: Path, saved: Path, tags: Mapping[str, str], run_id: str | None = None
) -> tuple[Version, bool]:
    """Put a package into the registry as `challenger`, unless a version has the same bytes.

    Args:
        store: the registry in use.
        task: names the registered model.
        package: the folder that `write_package` made; its hash is the version's identity.
        saved: the same package as an MLflow model; made there if it is not there.
        tags: lineage.
        run_id: the run that it belongs to.

    Returns:
        The version, and whether it is new.
    """
    name, digest = model_name(task), read_package(package).hash
    home().mkdir(parents=True, exist_ok=True)
    with FileLock(home() / "registry.lock"):
        known = next((version for version in versions(store, name) if version.package_hash == digest), None)
        if known is None:
            if not saved.exists():
                save_pyfunc(package, saved)
            _create_version(store, name, saved, {**tags, PACKAGE_HASH: digest}, run_id)
    version = known or next(version for version in versions(store, name) if version.package_hash == digest)
    if CHALLENGER not in version.aliases:
        set_alias(store, version, CHALLENGER)
    current = next(found for found in versions(store, name) if found.number == version.number)
    return current, known is None


def _create_version(store: Store, name: str, saved: Path, tags: Mapping[str, str], run_id: str | None) -> None:
    try:
        store.client.create_registered_model(name, description="Made by Hallmark; see the tags of each version.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    model = store.client.create_logged_model(
        store.experiment_id, name=name, source_run_id=run_id, tags=dict(tags), model_type="classifier"
    )
    store.client.log_model_artifacts(model.model_id, str(saved))
    store.client.finalize_logged_model(model.model_id, "READY")
    source = f"models:/{model.model_id}"
    store.client.create_model_version(name, source, run_id=run_id, tags=dict(tags), model_id=model.model_id)


def register_task(task: str, *, store: Store | None = None, saved: Path | None = None, key: str | None = None) -> str:
    """See that the registry in use has the built model of a task as `challenger`; says what was done.

    DVC may have restored the stage `register` from its cache while this registry never saw the model.

    Args:
        task: a task of params.yaml.
        store: the registry; opened without it.
        saved: the package as an MLflow model, if it is at hand.
        key: the key of the stage that made the package; that in dvc.lock without it.

    Raises:
        HallmarkError: unknown task, nothing built, a package that was changed, or a registry that is away.
    """
    tasks = load_params().tasks
    if task not in tasks:
        raise HallmarkError(f"there is no task {task!r}; {allowed(tasks)}", where="params.yaml: tasks")
    package = REGISTERED / task
    read_package(package)  # refuses a changed one, before any store is asked
    store = store or open_store()
    try:
        with tempfile.TemporaryDirectory(prefix="hallmark-") as folder:
            tags, run_id = lineage(task), _run_id(store, task, key)
            version, is_new = register_package(store, task, package, saved or Path(folder) / "model", tags, run_id)
    except TRACKER_ERRORS as error:
        raise HallmarkError(
            f"the registry does not take the model: {str(error).strip().splitlines()[0]}",
            where=store.uri,
            fix=f"hallmark register {task}",
        ) from error
    done = "registered" if is_new else "was already there"
    return f"{version.name} version {version.number} ({', '.join(version.aliases)}) {done}: {store.uri}"


def _run_id(store: Store, task: str, key: str | None) -> str | None:
    """The run of the stage that made the package, if it ran on this machine."""
    name = f"register@{task}"
    if key is None and (entry := locked_stages().get(name)):
        key = _key(name, entry)
    run = last_run(key) if key else None
    return ensure_stage_run(store, run) if run is not None else None
