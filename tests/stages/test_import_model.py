"""From a published model to pretraining's start: the doors `import`, `tokenizer`, `encode` and `pretrain`."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from pipeline.common.errors import HallmarkError
from pipeline.common.files import read_json, read_jsonl, sha256_folder
from pipeline.common.layout import CLEAN_DOCUMENTS, IMPORTED, PRETRAINED, TOKENIZER, metrics_file
from pipeline.common.params import Params, check_params
from pipeline.common.tables import write_table
from pipeline.model.weights import read_weights
from pipeline.stages import encode, import_model, pretrain, tokenizer
from pipeline.stages.door import Stage
from pipeline.tracking.journal import Journal
from tests.model.published import SAMPLE, publish

PUBLISHED = "published"  # relative to the project, as a person may write it


def make_stage(name: str, init_from: str | None = f"hf:{PUBLISHED}", steps: int = 0, **model: Any) -> Stage:
    params = Params.model_validate(
        {
            "compute": {"device": "cpu", "precision": "float32", "compile": "never"},
            "model": {"init_from": init_from, "context_length": 32, **model},
            "pretrain": {"steps": steps or (600 if init_from is None else 0), "batch_tokens": 64},
        }
    )
    return Stage(name, "0" * 64, {}, params, Journal("0" * 64))


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HALLMARK_HOME", str(tmp_path / ".hallmark"))
    monkeypatch.setattr("pipeline.training.runtime.matmul_flops_per_second", lambda runtime: 1e12)  # half a second
    splits = ["train"] * 8 + ["validation"] * 4
    write_table(CLEAN_DOCUMENTS, pd.DataFrame({"text": [" ".join(SAMPLE)] * 12, "split": splits, "source": "a"}))


def test_without_a_model_the_folder_says_so_in_the_same_bytes() -> None:
    import_model.main(make_stage("import", None))
    first = sha256_folder(IMPORTED)
    assert read_json(IMPORTED / "config.json") == {"import": None}
    publish("gpt2", Path(PUBLISHED))
    import_model.main(make_stage("import"))
    import_model.main(make_stage("import", None))  # what was there before is gone
    assert sha256_folder(IMPORTED) == first


def test_a_published_model_is_what_fine_tuning_starts_from(capsys: pytest.CaptureFixture[str]) -> None:
    publish("gpt2", Path(PUBLISHED))
    import_model.main(make_stage("import"))
    tokenizer.main(make_stage("tokenizer"))
    assert (TOKENIZER / "tokenizer.json").read_bytes() == Path(PUBLISHED, "tokenizer.json").read_bytes()
    encode.main(make_stage("encode"))
    pretrain.main(make_stage("pretrain"))
    shown = capsys.readouterr().out
    assert "import  init_from: hf:published (gpt2)" in shown
    assert "pretrain  context_length: 32 of its 160 (set)" in shown
    imported, _, _ = read_weights(IMPORTED)
    started, described, _ = read_weights(PRETRAINED)
    imported["embedding.positions.weight"] = imported["embedding.positions.weight"][:32]
    assert started.keys() == imported.keys()
    assert all(torch.equal(started[name], imported[name]) for name in started)
    assert described["model"]["context_length"] == 32
    [point] = read_jsonl(PRETRAINED / "metrics.jsonl")
    assert (point["step"], point["validation_loss"]) == (0, read_json(metrics_file("pretrain"))["validation_loss"])


def test_pretraining_goes_on_from_it() -> None:
    publish("bert-mlm", Path(PUBLISHED))
    for door in (import_model, tokenizer, encode, pretrain):
        door.main(make_stage(door.__name__.rpartition(".")[2], steps=2))
    imported, started = read_weights(IMPORTED)[0], read_weights(PRETRAINED)[0]
    assert started.keys() == imported.keys()
    moved = [name for name in started if not torch.equal(started[name], imported[name]) and "positions" not in name]
    assert "encoder.blocks.0.attention.q_proj.weight" in moved
    assert 0 < (started["lm_head.dense.weight"] - imported["lm_head.dense.weight"]).abs().max() < 0.2


def test_no_steps_need_a_model_to_start_from() -> None:
    with pytest.raises(HallmarkError, match=r"pretrain.steps: 0 needs model.init_from"):
        check_params({"pretrain": {"steps": 0}}, "params.yaml")
