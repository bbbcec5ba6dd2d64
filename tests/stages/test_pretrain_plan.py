"""The door `pretrain` tells its plan before the first step, trains by it, and refuses what does not fit."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.common.errors import HallmarkError
from pipeline.common.files import read_jsonl
from pipeline.common.layout import CLEAN_DOCUMENTS, PRETRAINED
from pipeline.common.params import Params
from pipeline.common.tables import write_table
from pipeline.stages import encode, import_model, pretrain, tokenizer
from pipeline.stages.door import Stage
from pipeline.tracking.journal import Journal
from tests.training.tiny import SONNETS


def make_stage(name: str, price: float | None = None, depth: int = 1, **settings: Any) -> Stage:
    params = Params.model_validate(
        {
            "tokenizer": {"kind": "bytes"},
            "compute": {"device": "cpu", "precision": "float32", "compile": "never", "price_per_hour": price},
            "model": {"depth": depth, "hidden_size": 32, "num_heads": 2, "context_length": 16},
            "pretrain": {"steps": 3, "batch_tokens": 96} | settings,
        }
    )
    return Stage(name, "0" * 64, {}, params, Journal("0" * 64))


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HALLMARK_HOME", str(tmp_path / ".hallmark"))
    monkeypatch.setattr("pipeline.training.runtime.matmul_flops_per_second", lambda runtime: 1e12)
    splits = ["train", "train", "train", "validation"]
    write_table(CLEAN_DOCUMENTS, pd.DataFrame({"text": SONNETS, "split": splits, "source": "sonnets"}))
    import_model.main(make_stage("import"))
    tokenizer.main(make_stage("tokenizer"))
    encode.main(make_stage("encode"))


def losses(**settings: Any) -> list[float]:
    pretrain.main(make_stage("pretrain", **settings))
    return [row["loss"] for row in read_jsonl(PRETRAINED / "metrics.jsonl") if "loss" in row]


def noted(stage: Stage) -> dict[str, Any]:
    events = read_jsonl(stage.journal.path)
    return {name: value for event in events if event["event"] == "note" for name, value in event["values"].items()}


def test_the_plan_is_printed_and_recorded_before_the_first_step(capsys: pytest.CaptureFixture[str]) -> None:
    stage = make_stage("pretrain", price=1.5, micro_batch_tokens="auto")
    pretrain.main(stage)
    told = noted(stage)
    assert told["micro_batch"].startswith("6 x 16 = 96 tokens (auto: ")
    assert "weights 0, gradients 0, optimizer 0, activations 0, logits 0, checkpoint 0" in told["memory"]
    assert told["predicted_time"].startswith("0 s (80% of 1,000 GFLOP/s")
    assert told["predicted_cost"].startswith("0.00 (1.5 per hour")
    printed = capsys.readouterr().out
    assert printed.index("pretrain  memory: ") < printed.index("step 3/3")


def test_the_whole_batch_is_the_default_and_auto_gives_the_same_bits_where_it_fits() -> None:
    whole = losses()
    assert len(whole) == 3
    assert losses(micro_batch_tokens="auto") == whole
    assert losses(micro_batch_tokens=16) == pytest.approx(whole, rel=1e-3)


def test_what_does_not_fit_is_refused_before_the_first_step() -> None:
    with pytest.raises(HallmarkError, match=r"does not fit.*largest part: activations") as caught:
        pretrain.main(make_stage("pretrain", batch_tokens=10**10, micro_batch_tokens=10**10))
    assert caught.value.where == "params.yaml: pretrain.micro_batch_tokens"
    assert not PRETRAINED.exists()
