"""Every preset, each with a tokenizer and an objective, through all the doors that know of them, by settings only."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.common.files import read_json
from pipeline.common.layout import CLEAN, PREDICTIONS, PRETRAINED, REGISTERED, TOKENIZER, metrics_file
from pipeline.common.params import Params, load_params
from pipeline.common.tables import read_table
from pipeline.model.presets import PRESETS
from pipeline.model.weights import read_config
from pipeline.serving.package import read_package
from pipeline.stages import encode, evaluate, finetune, pretrain, register, tokenizer
from pipeline.stages.door import Stage
from pipeline.tokenization.tokenizer import Tokenizer
from pipeline.tracking.journal import Journal
from tests.toy import TOY_PARAMS, ToyProject

DOORS = [
    ("tokenizer", tokenizer),
    ("encode", encode),
    ("pretrain", pretrain),
    ("finetune@package", finetune),
    ("scratch@package", finetune),
    ("evaluate@package", evaluate),
    ("register@package", register),
]
ARMS: dict[str, dict[str, Any]] = {
    "transformer-2017": {"tokenizer": "bpe", "objective": "span-corruption"},
    "gpt2": {"tokenizer": "bytes", "objective": "prefix-lm", "pooling": "last"},
    "llama": {"tokenizer": "characters", "objective": "causal"},
    "qwen3": {"tokenizer": "unigram", "objective": None},
    "bert": {"tokenizer": "wordpiece", "objective": "mlm+nsp", "pooling": "first"},
    "roberta": {"tokenizer": "bpe", "objective": "mlm"},
    "modernbert": {"tokenizer": "unigram", "objective": None},
    "t5": {"tokenizer": "wordpiece", "objective": "span-corruption"},
}


def settings_of(preset: str) -> Params:
    arm = ARMS[preset]
    changes = {
        "tokenizer": TOY_PARAMS["tokenizer"] | {"kind": arm["tokenizer"], "vocab_size": 400},
        "model": TOY_PARAMS["model"] | {"preset": preset},
        "objective": arm["objective"],
        "finetune": TOY_PARAMS["finetune"] | {"pooling": arm.get("pooling", "mean")},
    }
    return Params.model_validate(TOY_PARAMS | changes)


@pytest.mark.end_to_end
@pytest.mark.usefixtures("warm_executable")  # where `register` asks the model; a built project has asked in a fresh one
@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_goes_from_text_to_a_package_that_proves_itself(
    preset: str,
    built_project: ToyProject,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(built_project.root / CLEAN, tmp_path / CLEAN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HALLMARK_HOME", str(tmp_path / ".hallmark"))
    monkeypatch.setenv("HALLMARK_TRACKING", "off")
    monkeypatch.setattr("pipeline.training.runtime.matmul_flops_per_second", lambda runtime: 1e12)
    params = settings_of(preset)
    for number, (name, door) in enumerate(DOORS):
        key = f"{number:064d}"
        door.main(Stage(name, key, {}, params, Journal(key)))

    model = read_config(PRETRAINED)["model"]
    assert model["family"] == PRESETS[preset]["family"]
    learned = read_json(metrics_file("pretrain"))
    assert learned["training_flops"] > 0
    assert ("bits_per_byte" in learned) == (
        ARMS[preset]["objective"] in (None, "causal") and model["family"] == "decoder"
    )
    assert ("validation_pair_accuracy" in learned) == (ARMS[preset]["objective"] == "mlm+nsp")
    package = read_package(REGISTERED / "package")
    assert Tokenizer.load(package.folder).hash == Tokenizer.load(TOKENIZER).hash
    predictions = read_table(PREDICTIONS / "package.parquet")
    assert read_json(metrics_file("register@package"))["rows_compared"] == len(predictions)


@pytest.mark.end_to_end
def test_an_experiment_changes_the_family_by_settings_alone(built_project: ToyProject, tmp_path: Path) -> None:
    toy = built_project.copy(tmp_path / "toy")
    toy.git("add", "--all")
    toy.git("commit", "--quiet", "--message", "built")
    done = toy.run(
        *("dvc", "exp", "run", "--name", "bert"),
        *("-S", "model.preset=bert", "-S", "objective=mlm+nsp", "-S", "tokenizer.kind=wordpiece"),
        "report",  # `register` has been through the doors above with every preset
        environment=toy.warm | {"DVC_EXP_AUTO_PUSH": ""},
    )
    assert "Ran experiment" in done.stdout
    assert load_params(toy.root / "params.yaml").model.preset == "bert"
    summary = toy.hallmark("summary").stdout
    assert "package" in summary
    report = (toy.root / "report" / "index.html").read_text(encoding="utf-8")
    assert "It is no causal model" in report
    assert "ingest" not in done.stdout.partition("Running stage")[2]  # what does not depend on the model is kept
