"""A stage's name, a run's id and an alias lead to the folder of a model."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.common.errors import HallmarkError
from pipeline.common.files import write_json
from pipeline.common.layout import FINETUNED, IMPORTED
from pipeline.common.params import Params, render
from pipeline.model.weights import WEIGHTS, read_weights
from pipeline.serving.package import write_package
from pipeline.stages import import_model
from pipeline.stages.door import Stage
from pipeline.tracking.journal import Journal
from pipeline.tracking.locate import model_folder
from pipeline.tracking.mlflow_store import Store
from pipeline.tracking.registry import register_task
from tests.serving.conftest import TEXTS, make_classifier


@pytest.fixture
def built(machine: Path, tmp_path: Path) -> bytes:
    """A classifier as `finetune@library` and `register@library` leave it; its weights."""
    (tmp_path / "params.yaml").write_text(render(Params()))
    make_classifier(FINETUNED / "library")
    write_package(FINETUNED / "library", Path("models/register/library"), TEXTS[:2])
    return (FINETUNED / "library" / WEIGHTS).read_bytes()


def weights_of(what: str) -> bytes:
    with model_folder(what) as folder:
        return (folder / WEIGHTS).read_bytes()


def test_a_stage_is_its_output(built: bytes) -> None:
    assert weights_of("finetune@library") == built
    with pytest.raises(HallmarkError, match=r"(?s)there is no model of the stage 'pretrain'.*dvc repro"):
        weights_of("pretrain")
    write_json(IMPORTED / "config.json", {"import": None})  # as the stage leaves it without a model
    with pytest.raises(HallmarkError, match="there is no model of the stage 'import'"):
        weights_of("import")


def test_a_stages_model_needs_no_tracker(built: bytes) -> None:
    repository = Path(__file__).resolve().parents[2]
    code = (
        f"import sys; sys.path.insert(0, {str(repository)!r}); from pipeline.tracking.locate import model_folder\n"
        "with model_folder('finetune@library') as folder: assert folder.exists()\n"
        "assert not {'mlflow', 'dvc'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_alias_is_what_the_registry_has(built: bytes, store: Store) -> None:
    register_task("library", store=store)
    (FINETUNED / "library" / WEIGHTS).unlink()  # the registry's own copy is what is taken
    assert weights_of("hallmark-library@challenger") == built
    with pytest.raises(HallmarkError, match=r"no model '.*@champion'; allowed: .*, hallmark-library@challenger"):
        weights_of("hallmark-library@champion")


def test_a_registered_version_is_what_a_build_starts_from(built: bytes, store: Store) -> None:
    register_task("library", store=store)
    params = Params.model_validate({"model": {"init_from": "hallmark:hallmark-library@challenger"}})
    import_model.main(Stage("import", "0" * 64, {}, params, Journal("0" * 64)))
    weights, told, _ = read_weights(IMPORTED)
    assert told["import"]["files"][WEIGHTS] == hashlib.sha256(built).hexdigest()
    assert told["import"]["left_behind"] == ["head.bias", "head.weight"]
    trained, _, _ = read_weights(FINETUNED / "library")
    assert all(torch.equal(value, trained[f"body.{name}"]) for name, value in weights.items())


def test_a_run_is_the_version_that_was_made_of_it_or_says_where_to_go(built: bytes, store: Store) -> None:
    register_task("library", store=store)
    [version] = store.client.search_model_versions("name = 'hallmark-library'")
    tags = {"hallmark.stage": "finetune@library", "hallmark.stage_key": "f" * 64, "hallmark.git_commit": "c" * 40}
    run = store.client.create_run(store.experiment_id, tags=tags).info.run_id
    with pytest.raises(HallmarkError, match=r"(?s)at commit c{12}.*git checkout c{12} && dvc repro finetune@"):
        weights_of(run)
    store.client.set_model_version_tag(version.name, version.version, "hallmark.stage_key.finetune", "f" * 64)
    assert weights_of(run) == built
    with pytest.raises(HallmarkError, match=r"there is no run 0{32}"):
        weights_of("0" * 32)


def test_export_writes_the_model_it_found(built: bytes, tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").touch()
    first = CliRunner().invoke(app, ["export", "finetune@library", "out"])
    assert first.exit_code == 0, first.output
    assert first.output.startswith("out: Qwen3Model\n  README.md  ")
    assert "note: for Qwen3ForSequenceClassification set finetune.pooling: last, then dvc repro" in first.output
    again = CliRunner().invoke(app, ["export", "finetune@library", "out"])
    assert "there already with the same bytes" in again.output
    refused = CliRunner().invoke(app, ["export", "scratch@library", "out"])
    assert refused.exit_code == 1
    assert "hallmark: models/scratch/library: there is no model of the stage 'scratch@library'" in refused.output
