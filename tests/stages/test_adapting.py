"""The door `finetune` where less than all learns: what it leaves, and exactly the same after a stop."""

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.common.files import read_json, sha256_folder
from pipeline.common.layout import FINETUNED, PRETRAINED, SCRATCH_ARM, metrics_file
from pipeline.model.adapters import ADAPTERS, load_adapters
from pipeline.model.config import ModelConfig
from pipeline.model.weights import load_weights, named_weights, read_weights
from pipeline.stages import finetune
from pipeline.tasks.classification import TextClassifier, load_classifier
from pipeline.training.checkpoints import checkpoint_steps
from tests.stages.conftest import MakeStage, StoppedError, stop_training

LORA = {"adapt": "lora", "lora_rank": 2}


def test_base_and_adapters_say_what_the_merged_classifier_says(make_stage: MakeStage, labelled: pd.DataFrame) -> None:
    finetune.main(make_stage("finetune@kind", ngrams=False, **LORA))
    merged = load_classifier(FINETUNED / "kind").model
    base, described, _ = read_weights(PRETRAINED)
    apart = TextClassifier(ModelConfig.from_dict(described["model"]), 3, "mean").eval()
    own = named_weights(apart.body)
    load_weights(apart.body, {name: base[name] for name in own})
    load_adapters(FINETUNED / "kind" / ADAPTERS, apart, apart.body, described["weights_sha256"])
    ids_BT, lengths_B = torch.arange(5, 29).reshape(2, 12), torch.tensor([12, 8])
    before = TextClassifier(ModelConfig.from_dict(described["model"]), 3, "mean").eval()
    load_weights(before.body, {name: base[name] for name in own})
    before.head = merged.head
    with torch.no_grad():
        found, others, unadapted = (model(ids_BT, lengths_B) for model in (merged, apart, before))
    # In float32, with which classifiers end; `tests/model/test_adapters.py` has it in float64.
    torch.testing.assert_close(found, others, atol=1e-5, rtol=1e-5)
    assert (found - unadapted).abs().max() > 1e-3
    sizes = {name: (FINETUNED / "kind" / name).stat().st_size for name in (ADAPTERS, "model.safetensors")}
    assert sizes[ADAPTERS] < sizes["model.safetensors"] / 4


def test_with_a_frozen_body_only_the_head_is_new(make_stage: MakeStage, labelled: pd.DataFrame) -> None:
    finetune.main(make_stage("finetune@kind", adapt="head"))
    pretrained, _, _ = read_weights(PRETRAINED)
    for name, weight in read_weights(FINETUNED / "kind")[0].items():
        if name.startswith("body."):
            assert torch.equal(weight, pretrained[name.removeprefix("body.")]), name
    assert not (FINETUNED / "kind" / ADAPTERS).exists()


def test_adapters_of_an_earlier_run_do_not_stay(make_stage: MakeStage, labelled: pd.DataFrame) -> None:
    finetune.main(make_stage("finetune@kind", **LORA))
    assert (FINETUNED / "kind" / ADAPTERS).exists()
    finetune.main(make_stage("finetune@kind", key="1" * 64))
    assert not (FINETUNED / "kind" / ADAPTERS).exists()


def test_the_baseline_from_random_weights_learns_all_of_them(make_stage: MakeStage, labelled: pd.DataFrame) -> None:
    finetune.main(make_stage("scratch@kind"))
    expected = sha256_folder(SCRATCH_ARM / "kind")
    for number, settings in enumerate((LORA, {"adapt": "head"}, {"layer_rate_decay": 0.5}), start=1):
        finetune.main(make_stage("scratch@kind", key=str(number) * 64, **settings))
        assert sha256_folder(SCRATCH_ARM / "kind") == expected


def test_lower_layers_learn_less_with_a_decaying_rate(make_stage: MakeStage, labelled: pd.DataFrame) -> None:
    finetune.main(make_stage("finetune@kind", layer_rate_decay=1e-9))
    pretrained, _, _ = read_weights(PRETRAINED)
    found = read_weights(FINETUNED / "kind")[0]
    moved = {layer: change(found, pretrained, f"decoder.blocks.{layer}.attention.q_proj.weight") for layer in (0, 1)}
    assert moved[0] < 1e-6 < 1e-4 < moved[1]


def change(found: dict[str, Tensor], pretrained: dict[str, Tensor], name: str) -> float:
    return float((found[f"body.{name}"] - pretrained[name]).abs().max())


@pytest.mark.parametrize(
    "settings", [LORA, {"adapt": "head"}, {"layer_rate_decay": 0.5}, {"teacher": "teacher"}], ids=str
)
@pytest.mark.parametrize("stop_after", [1, 7])
def test_a_stopped_run_goes_on_to_the_same_bytes(
    make_stage: MakeStage,
    labelled: pd.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, object],
    stop_after: int,
) -> None:
    if "teacher" in settings:
        make_teacher(make_stage)
    finetune.main(make_stage("finetune@kind", **settings))
    undisturbed = sha256_folder(FINETUNED / "kind"), metrics_file("finetune@kind").read_bytes()
    monkeypatch.setattr(finetune, "CHECKPOINT_EVERY", 2)
    stage = make_stage("finetune@kind", key="2" * 64, **settings)
    with monkeypatch.context() as patch:
        stop_training(patch, stop_after)
        with pytest.raises(StoppedError):
            finetune.main(stage)
    if stop_after > 2 and "adapt" in settings:  # what is frozen is not written again and again
        step = checkpoint_steps(stage.scratch)[-1]
        kept = {name for name in load_file(stage.scratch / f"checkpoint-{step:06d}.safetensors") if "body" in name}
        assert all(".lora_" in name for name in kept)
        assert bool(kept) == (settings["adapt"] == "lora")
    finetune.main(make_stage("finetune@kind", key="2" * 64, **settings))
    assert (sha256_folder(FINETUNED / "kind"), metrics_file("finetune@kind").read_bytes()) == undisturbed


def make_teacher(make_stage: MakeStage) -> None:
    finetune.main(make_stage("finetune@kind", key="9" * 64, epochs=8))
    (FINETUNED / "kind").rename("teacher")


def test_a_student_comes_nearer_to_its_teacher(make_stage: MakeStage, labelled: pd.DataFrame) -> None:
    make_teacher(make_stage)
    texts = labelled.loc[labelled["split"] == "train", "text"].tolist()
    wanted = load_classifier("teacher").predict_probabilities(texts)
    distance = {}
    for weight in (0.0, 1.0):
        finetune.main(
            make_stage("scratch@kind", key=f"{weight:.0f}" * 64, teacher="teacher", teacher_weight=weight, epochs=8)
        )
        distance[weight] = abs(load_classifier(SCRATCH_ARM / "kind").predict_probabilities(texts) - wanted).mean()
        metrics = read_json(metrics_file("scratch@kind"))
        assert metrics["teacher"] == read_json("teacher/config.json")["weights_sha256"][:12]
        assert 0.4 < metrics["teacher_training_accuracy"] <= 1
    assert distance[1.0] < distance[0.0]


def test_the_journal_tells_how_much_learns(
    make_stage: MakeStage, labelled: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    finetune.main(make_stage("finetune@kind", adapt="head", ngrams=False))
    assert "finetune@kind  learns: head: 51 of " in capsys.readouterr().out
    assert read_json(FINETUNED / "kind" / "config.json")["task"]["labels"]
