"""The doors `finetune` and `scratch`: what they start from, what they leave, and exactly the same after a stop."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from pipeline.common.errors import HallmarkError
from pipeline.common.files import read_json, read_jsonl, sha256_folder
from pipeline.common.layout import FINETUNED, PRETRAINED, SCRATCH_ARM, clean_task, metrics_file
from pipeline.common.tables import write_table
from pipeline.model.weights import WEIGHTS, read_weights
from pipeline.stages import finetune
from pipeline.tasks.classification import POOL_WEIGHTS, load_classifier
from tests.stages.conftest import MakeStage, StoppedError, stop_training

STILL = {"learning_rate": 1e-12, "head_learning_rate": 1e-12}


def test_it_leaves_a_classifier_its_curve_and_its_metrics(make_stage: MakeStage, labelled: pd.DataFrame) -> None:
    stage = make_stage("finetune@kind")
    finetune.main(stage)
    folder = FINETUNED / "kind"
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "metrics.jsonl",
        "model.safetensors",
        "tokenizer.json",
    ]
    metrics = read_json(metrics_file("finetune@kind"))
    assert metrics["train_texts"] == 18
    assert metrics["steps"] == metrics["epochs"] * 3
    curve = read_jsonl(folder / "metrics.jsonl")
    values = [point["validation_macro_f1"] for point in curve if "validation_macro_f1" in point]
    assert len(values) == metrics["epochs"]
    assert metrics["validation"]["macro_f1"] == max(values) == values[metrics["best_epoch"] - 1]
    assert "tokens_per_second" in stage.timings
    assert not stage.scratch.exists()


def test_the_kept_weights_are_those_of_the_best_epoch(make_stage: MakeStage, labelled: pd.DataFrame) -> None:
    finetune.main(make_stage("finetune@kind"))
    metrics = read_json(metrics_file("finetune@kind"))
    held_out = labelled[labelled["split"] == "validation"]
    predicted = load_classifier(FINETUNED / "kind").predict(held_out["text"].tolist())
    right = sum(ours == label for ours, label in zip(predicted, held_out["label"], strict=True))
    assert right / len(held_out) == pytest.approx(metrics["validation"]["accuracy"])


def test_one_arm_starts_from_the_pretrained_weights_and_the_other_needs_none(
    make_stage: MakeStage, labelled: pd.DataFrame
) -> None:
    still = STILL | {"weight_decay": 0.0}
    finetune.main(make_stage("finetune@kind", **still))
    (PRETRAINED / WEIGHTS).rename("elsewhere")
    finetune.main(make_stage("scratch@kind", **still))
    with pytest.raises(FileNotFoundError):
        finetune.main(make_stage("finetune@kind", key="1" * 64))
    Path("elsewhere").rename(PRETRAINED / WEIGHTS)
    pretrained, _, _ = read_weights(PRETRAINED)
    name = "embedding.tokens.weight"
    difference = {
        arm: float((read_weights(arm / "kind")[0][f"body.{name}"] - pretrained[name]).abs().max())
        for arm in (FINETUNED, SCRATCH_ARM)
    }
    assert difference[FINETUNED] < 1e-6 < 1e-3 < difference[SCRATCH_ARM]
    tasks = [read_json(arm / "kind" / "config.json")["task"] for arm in (FINETUNED, SCRATCH_ARM)]
    for name in POOL_WEIGHTS:
        assert tasks[0].pop(name) != tasks[1].pop(name)
    assert tasks[0] == tasks[1]


@pytest.mark.parametrize("stop_after", [1, 4, 7])
def test_a_stopped_finetuning_goes_on_to_the_same_bytes(
    make_stage: MakeStage, labelled: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    finetune.main(make_stage("finetune@kind"))
    undisturbed = sha256_folder(FINETUNED / "kind"), metrics_file("finetune@kind").read_bytes()
    monkeypatch.setattr(finetune, "CHECKPOINT_EVERY", 2)
    with monkeypatch.context() as patch:
        stop_training(patch, stop_after)
        with pytest.raises(StoppedError):
            finetune.main(make_stage("finetune@kind", key="2" * 64))
    finetune.main(make_stage("finetune@kind", key="2" * 64))
    assert (sha256_folder(FINETUNED / "kind"), metrics_file("finetune@kind").read_bytes()) == undisturbed


def test_patience_stops_early(make_stage: MakeStage, labelled: pd.DataFrame) -> None:
    finetune.main(make_stage("finetune@kind", epochs=30, patience=1, ngrams=False, **STILL))
    assert read_json(metrics_file("finetune@kind"))["epochs"] == 2


def test_one_class_only_is_named(make_stage: MakeStage, labelled: pd.DataFrame) -> None:
    write_table(clean_task("kind"), labelled[labelled["label"] == "fruit"])
    with pytest.raises(HallmarkError, match=r"data/clean/tasks/kind.parquet: .*\n.*every training row has the label"):
        finetune.main(make_stage("finetune@kind"))


def test_without_a_task_the_door_says_how_to_call_it() -> None:
    done = subprocess.run([sys.executable, "-m", "pipeline.stages.finetune"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "usage: python -m pipeline.stages.finetune TASK [--from-scratch]\n"
