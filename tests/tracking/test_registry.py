"""Versions by package hash, aliases, and a registry that lacks what DVC restored."""

import time
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pytest

from pipeline.common.errors import HallmarkError
from pipeline.common.files import write_json
from pipeline.common.layout import REGISTERED
from pipeline.common.params import Params, render
from pipeline.serving.package import Package, write_package
from pipeline.serving.save import save_pyfunc
from pipeline.tasks.classification import load_classifier
from pipeline.tracking.mlflow_store import Store, open_store
from pipeline.tracking.registry import (
    CHALLENGER,
    CHAMPION,
    delete_alias,
    get_version,
    model_name,
    register_package,
    register_task,
    set_alias,
    versions,
)
from pipeline.tracking.sync import sync_build
from tests.serving.conftest import LABELS, TEXTS, make_classifier
from tests.tracking.conftest import Begin, finish, runs


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_classifier(tmp_path_factory.mktemp("finetuned") / "library")


@pytest.fixture
def package(machine: Path, tmp_path: Path, classifier: Path) -> Package:
    """The package of the task `library`, where the stage `register` leaves it."""
    (tmp_path / "params.yaml").write_text(render(Params()))
    return write_package(classifier, REGISTERED / "library", TEXTS[:2])


@pytest.fixture
def saved(package: Package, tmp_path: Path) -> Path:
    save_pyfunc(package, tmp_path / "saved")
    return tmp_path / "saved"


def test_the_same_weights_are_the_same_version(store: Store, package: Package, saved: Path, classifier: Path) -> None:
    assert versions(store, model_name("library")) == []
    first, is_new = register_package(store, "library", package.folder, saved, {"hallmark.build": "one"})
    assert (first.name, first.number, first.aliases, is_new) == ("hallmark-library", 1, (CHALLENGER,), True)
    again, is_new = register_package(store, "library", package.folder, saved, {"hallmark.build": "two"})
    assert (again, is_new) == (first, False)
    assert again.tags["hallmark.build"] == "one"

    other = write_package(classifier, package.folder, ["another example"])
    second, is_new = register_package(store, "library", other.folder, saved, {})
    assert (second.number, second.aliases, is_new) == (2, (CHALLENGER,), True)
    assert [version.aliases for version in versions(store, "hallmark-library")] == [(), (CHALLENGER,)]


def test_aliases_move(store: Store, package: Package, saved: Path) -> None:
    version, _ = register_package(store, "library", package.folder, saved, {})
    assert get_version(store, version.name, CHAMPION) is None
    set_alias(store, version, CHAMPION)
    found = get_version(store, version.name, CHAMPION)
    assert found is not None
    assert found.aliases == (CHALLENGER, CHAMPION)
    delete_alias(store, version.name, CHALLENGER)
    assert get_version(store, version.name, CHALLENGER) is None


def test_what_is_registered_is_loaded_by_its_alias(store: Store, package: Package, saved: Path) -> None:
    register_package(store, "library", package.folder, saved, {})
    model: Any = mlflow.pyfunc.load_model(f"models:/{model_name('library')}@{CHALLENGER}")
    (answer,) = model.predict(TEXTS[:1])
    row = load_classifier(package.folder).predict_probabilities(TEXTS[:1])[0]
    assert answer.label == LABELS[row.argmax()]


def test_a_registry_that_lacks_the_version_gets_it(
    store: Store, package: Package, begin: Begin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "d" * 64
    finish(begin("register@library", key=key))
    assert "hallmark-library version 1 (challenger) registered" in register_task("library", key=key)
    assert "was already there" in register_task("library", key=key)
    version = get_version(store, "hallmark-library", CHALLENGER)
    assert version is not None
    assert version.tags["hallmark.task"] == "library"
    assert version.package_hash == package.hash
    sync_build()
    (run,) = runs(store, stage="register@library")
    assert store.client.get_model_version("hallmark-library", "1").run_id == run.info.run_id
    assert run.info.status == "FINISHED"

    database = tmp_path / "another.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
    assert f"registered: sqlite:///{database}" in register_task("library", key=key)
    assert [found.number for found in versions(open_store(), "hallmark-library")] == [1]


def test_a_changed_package_is_not_registered(store: Store, package: Package) -> None:
    write_json(package.folder / "config.json", {"task": {"labels": ["a", "b"]}})
    with pytest.raises(HallmarkError, match=r"changed since it was packaged: config\.json"):
        register_task("library")
    assert versions(store, model_name("library")) == []


def test_an_unknown_task_and_a_registry_that_is_away(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HallmarkError, match="allowed: library"):
        register_task("libary")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    begun = time.monotonic()
    with pytest.raises(HallmarkError, match="MLflow does not answer"):
        register_task("library")
    assert time.monotonic() - begun < 10
