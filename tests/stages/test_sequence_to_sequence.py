"""The doors `finetune` and `evaluate` for written texts: the same bytes after a stop, the best weights, the figures."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from pipeline.common.files import read_json, read_jsonl, sha256_folder
from pipeline.common.layout import FINETUNED, PREDICTIONS, PRETRAINED, clean_task, metrics_file
from pipeline.common.tables import read_table, write_table
from pipeline.evaluation.int8 import measure_int8
from pipeline.evaluation.report.text_page import WRITTEN_TEXTS, text_findings
from pipeline.model.transformer import Transformer
from pipeline.model.weights import named_weights, read_weights, save_checkpoint_folder
from pipeline.stages import evaluate, finetune, register
from pipeline.stages.door import Stage
from pipeline.tasks.sequence_to_sequence import SequenceToSequence
from tests.stages.conftest import MakeStage, StoppedError, stop_training
from tests.tasks.pairs import make_config, make_rows, make_tokenizer

TASK = {
    "kind": "sequence_to_sequence",
    "path": "pairs.jsonl",
    "labels_per_class": None,
    "max_target_tokens": 12,
    "beams": 2,
    "measure": "bleu",
}
LORA = {"adapt": "lora", "lora_rank": 2}
MUON = {"optimizer": "muon"}


@pytest.fixture
def pairs(make_stage: MakeStage) -> pd.DataFrame:
    """The task's rows, written; beside them a pretrained encoder-decoder that knows nothing."""
    rows = make_rows(16)
    write_table(clean_task("kind"), rows)
    write_pretrained(rows, "encoder-decoder")
    return rows


def write_pretrained(rows: pd.DataFrame, family: str) -> None:
    tokenizer = make_tokenizer(rows)
    config = make_config(tokenizer, family)
    torch.manual_seed(3)
    save_checkpoint_folder(PRETRAINED, named_weights(Transformer(config)), {"model": config.to_dict()}, tokenizer)


def stage_of(make_stage: MakeStage, name: str = "finetune@kind", **changes: Any) -> Stage:
    settings: dict[str, Any] = {"epochs": 2, "max_tokens": 24}
    return make_stage(name, task=TASK, **settings | changes)


@pytest.mark.parametrize(("family", "settings"), [("decoder", LORA), ("encoder-decoder", MUON)])
def test_a_stopped_run_goes_on_to_the_same_bytes(
    make_stage: MakeStage,
    pairs: pd.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    settings: dict[str, Any],
) -> None:
    write_pretrained(pairs, family)
    finetune.main(stage_of(make_stage, **settings))
    undisturbed = sha256_folder(FINETUNED / "kind"), metrics_file("finetune@kind").read_bytes()
    monkeypatch.setattr(finetune, "CHECKPOINT_EVERY", 2)
    with monkeypatch.context() as patch:
        stop_training(patch, 5, SequenceToSequence)
        with pytest.raises(StoppedError):
            finetune.main(stage_of(make_stage, key="2" * 64, **settings))
    finetune.main(stage_of(make_stage, key="2" * 64, **settings))
    assert (sha256_folder(FINETUNED / "kind"), metrics_file("finetune@kind").read_bytes()) == undisturbed


@pytest.mark.usefixtures("warm_executable")
def test_the_weights_with_the_best_figure_are_kept_and_the_pretrained_head_learns_on(
    make_stage: MakeStage, pairs: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finetune.main(stage_of(make_stage, learning_rate=0.01, epochs=4))
    curve = [point for point in read_jsonl(FINETUNED / "kind" / "metrics.jsonl") if "validation_bleu" in point]
    kept = read_json(metrics_file("finetune@kind"))["validation"]
    assert kept["bleu"] == max(point["validation_bleu"] for point in curve)
    assert {"loss", "chrf", "rouge_1", "rouge_2", "rouge_l"} < set(kept)
    pretrained, found = read_weights(PRETRAINED)[0], read_weights(FINETUNED / "kind")[0]
    assert {name.removeprefix("body.") for name in found} == set(pretrained)
    finetune.main(stage_of(make_stage, "scratch@kind", learning_rate=0.01))

    evaluate.main(stage_of(make_stage, "evaluate@kind"))
    metrics = read_json(metrics_file("evaluate@kind"))
    assert set(metrics["baselines"]) == {"scratch", "nearest", "lead"}
    for name in ("bleu", "chrf", "rouge_l"):
        figure, lead = metrics[name], metrics["baselines"]["lead"]
        assert figure["low"] <= figure["value"] <= figure["high"] <= 100
        assert lead[f"lead_{name}"]["value"] == pytest.approx(figure["value"] - lead[name]["value"])
    predictions = read_table(PREDICTIONS / "kind.parquet")
    assert predictions["lead"].to_list() == pairs.loc[pairs["split"] == "test", "text"].to_list()
    bands = pd.read_csv(Path("plots/kind/confusion.csv"))
    assert len(bands) == 16
    assert bands["label"].str.fullmatch(r"\d+ to \d+ characters").all()
    assert bands["predicted"].str.fullmatch(r"chrF \d{3} to \d{3}").all()

    mistakes = text_findings(predictions, pairs, {})["mistakes"]
    wrong = predictions[predictions["target"] != predictions["predicted"]]
    assert len(mistakes) == min(8, len(wrong))
    assert mistakes[0]["certainty"] == f"with chrF {wrong['chrf'].min():.1f}"
    assert WRITTEN_TEXTS.lead == WRITTEN_TEXTS.led_by("macro_f1").lead == "chrf"
    assert list(WRITTEN_TEXTS.led_by("bleu").headlines) == ["bleu", "chrf", "rouge_l"]
    report = measure_int8("kind", stage_of(make_stage).params)
    assert (report.figure, report.full) == ("BLEU", metrics["bleu"])

    monkeypatch.setenv("HALLMARK_TRACKING", "off")
    register.main(stage_of(make_stage, "register@kind"))
    assert "16 test rows predicted alike by a fresh process" in capsys.readouterr().out
