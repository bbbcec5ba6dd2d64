"""From a word that a person has for a model to the folder that holds it.

MLflow and DVC are imported only where the word means a run or a registered version: a stage's model is at hand at once.
"""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.common.errors import HallmarkError, allowed
from pipeline.common.layout import FINETUNED, IMPORTED, PRETRAINED, SCRATCH_ARM
from pipeline.model.weights import WEIGHTS
from pipeline.serving.package import MANIFEST, read_package

if TYPE_CHECKING:
    from mlflow.entities import Run

    from pipeline.tracking.mlflow_store import Store
    from pipeline.tracking.registry import Version

STAGES = {"import": IMPORTED, "pretrain": PRETRAINED, "finetune": FINETUNED, "scratch": SCRATCH_ARM}
RUN_ID = re.compile(r"[0-9a-f]{32}")


@contextmanager
def model_folder(what: str) -> Iterator[Path]:
    """The folder of a stage's model, of an MLflow run's, or of the registered version NAME@ALIAS.

    Args:
        what: `pretrain`, `finetune@TASK`, a folder that holds a model, a run's id, or NAME@ALIAS.

    Raises:
        HallmarkError: there is no such model, or its bytes are not here; says where they are.
    """
    stage, _, task = what.partition("@")
    if stage in STAGES:
        yield _built(what, STAGES[stage] / task if task else STAGES[stage])
        return
    if (Path(what) / WEIGHTS).exists():
        yield Path(what)
        return
    from pipeline.tracking.mlflow_store import TRACKER_ERRORS, open_store

    store = open_store()
    with tempfile.TemporaryDirectory(prefix="hallmark-") as folder:
        try:
            if RUN_ID.fullmatch(what):
                yield _of_run(store, what, Path(folder))
            else:
                yield _download(store, _aliased(store, what).uri, Path(folder))
        except TRACKER_ERRORS as error:
            raise HallmarkError(str(error).strip().splitlines()[0], where=store.uri) from error


def _built(what: str, folder: Path) -> Path:
    if not (folder / WEIGHTS).exists():
        raise HallmarkError(f"there is no model of the stage {what!r}", where=str(folder), fix="dvc repro")
    return folder


def _aliased(store: "Store", what: str) -> "Version":
    from pipeline.tracking.registry import versions

    name, _, alias = what.partition("@")
    found = versions(store, name)
    version = next((version for version in found if alias in version.aliases), None)
    if version is None:
        aliases = sorted({f"{name}@{other}" for version in found for other in version.aliases})
        choices = [*STAGES, "STAGE@TASK", "an MLflow run's id", *(aliases or ["NAME@ALIAS of a registered model"])]
        raise HallmarkError(f"there is no model {what!r}; {allowed(choices)}", where=store.uri)
    return version


def _of_run(store: "Store", run_id: str, target: Path) -> Path:
    """The present build's output if this run's stage made it, else the version that the registry has of the run."""
    from mlflow.exceptions import MlflowException

    from pipeline.tracking.stage_key import decisive, locked_stages, stage_key

    try:
        run = store.client.get_run(run_id)
    except MlflowException as error:
        raise HallmarkError(f"there is no run {run_id}", where=store.uri) from error
    stage, key = run.data.tags.get("hallmark.stage", ""), run.data.tags.get("hallmark.stage_key")
    kind, _, task = stage.partition("@")
    entry = locked_stages().get(stage)
    if kind in STAGES and entry is not None and stage_key(decisive(stage, entry)) == key:
        return _built(stage, STAGES[kind] / task if task else STAGES[kind])
    questions = [f"run_id = '{run_id}'"]
    if kind == "finetune":
        questions.append(f"tags.`hallmark.stage_key.finetune` = '{key}'")
    for question in questions:
        for version in store.client.search_model_versions(question):
            return _download(store, f"models:/{version.name}/{version.version}", target)
    raise HallmarkError(f"the model of this run is not here: {_whereabouts(run, stage)}", where=f"run {run_id}")


def _whereabouts(run: "Run", stage: str) -> str:
    if not stage:
        return "it is no run of a stage that makes a model"
    commit = run.data.tags.get("hallmark.git_commit", "COMMIT")
    return f"it was made at commit {commit[:12]}\n  next: git checkout {commit[:12]} && dvc repro {stage}"


def _download(store: "Store", uri: str, target: Path) -> Path:
    """The package inside a registered version, checked to the last byte."""
    from mlflow.artifacts import download_artifacts

    saved = Path(download_artifacts(artifact_uri=uri, dst_path=str(target), tracking_uri=store.uri))
    manifests = sorted(saved.rglob(MANIFEST))
    if not manifests:
        raise HallmarkError("this version holds no package of a model", where=uri)
    return read_package(manifests[0].parent).folder
