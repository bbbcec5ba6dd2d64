"""From the user's files to the trained model: every document keeps the name of its source, and its weight counts."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.common.errors import HallmarkError
from pipeline.common.files import read_json, read_jsonl, sha256_file
from pipeline.common.layout import CLEAN_DOCUMENTS, PRETRAINED, TOKENS, metrics_file
from pipeline.common.params import Params
from pipeline.stages import encode, import_model, ingest, pretrain, tokenizer, validate
from pipeline.stages.door import Stage
from pipeline.tracking.journal import Journal
from tests.training.tiny import SONNETS


def make_stage(name: str, weights: dict[str, float] | None = None, **settings: Any) -> Stage:
    params = Params.model_validate(
        {
            "source": {"kind": "files", "path": "own", "documents": {"verse": "verse/*.txt", "prose": "prose.jsonl"}},
            "tasks": {"mood": {"path": "labels.csv"}},
            "tokenizer": {"kind": "bytes"},
            "compute": {"device": "cpu", "precision": "float32", "compile": "never"},
            "model": {"depth": 1, "hidden_size": 32, "num_heads": 2, "context_length": 16},
            "pretrain": {"steps": 3, "batch_tokens": 96, "source_weights": weights or {}} | settings,
        }
    )
    return Stage(name, "0" * 64, {}, params, Journal("0" * 64))


@pytest.fixture
def encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The training tokens of each source of a project that is built up to `encode`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HALLMARK_HOME", str(tmp_path / ".hallmark"))
    monkeypatch.setattr("pipeline.training.runtime.matmul_flops_per_second", lambda runtime: 1e12)
    (tmp_path / "own" / "verse").mkdir(parents=True)
    for place, sonnet in enumerate(SONNETS):
        (tmp_path / "own" / "verse" / f"{place}.txt").write_text(sonnet, encoding="utf-8")
    prose = pd.DataFrame({"text": [f"It was the season number {number} of light." for number in range(40)]})
    prose.to_json(tmp_path / "own" / "prose.jsonl", orient="records", lines=True)
    labels = pd.DataFrame({"text": [f"mood {number}" for number in range(60)], "label": ["good", "bad"] * 30})
    labels.to_csv(tmp_path / "own" / "labels.csv", index=False)
    for name, door in (("ingest", ingest), ("validate", validate), ("import", import_model)):
        door.main(make_stage(name))
    for name, door in (("tokenizer", tokenizer), ("encode", encode)):
        door.main(make_stage(name))
    return read_json(metrics_file("encode"))["train"]["tokens_by_source"]


def losses(weights: dict[str, float] | None = None, **settings: Any) -> list[float]:
    pretrain.main(make_stage("pretrain", weights, **settings))
    return [row["loss"] for row in read_jsonl(PRETRAINED / "metrics.jsonl") if "loss" in row]


def test_sources_go_from_the_files_to_the_shards(encoded: dict[str, int]) -> None:
    documents = pd.read_parquet(CLEAN_DOCUMENTS)
    train = documents[documents["split"] == "train"]
    lengths = train["text"].str.len() + 1  # a byte a token, and `bos`
    assert encoded == {name: int(lengths[train["source"] == name].sum()) for name in encoded}
    assert read_json(metrics_file("ingest"))["documents"]["sources"] == {"prose": 40, "verse": 4}
    assert np.load(TOKENS / "train.sources.npy", allow_pickle=False).dtype == np.uint32
    tokens = sha256_file(TOKENS / "train.bin")
    encode.main(make_stage("encode", {"prose": 0.5}))
    assert sha256_file(TOKENS / "train.bin") == tokens  # weights are no matter of the shards


def test_weights_are_told_and_counted(encoded: dict[str, int], capsys: pytest.CaptureFixture[str]) -> None:
    plain = losses()
    assert losses({"prose": 1, "verse": 1}) == plain
    capsys.readouterr()
    weighted = losses({"prose": 0.5, "verse": 4}, packing="stream")
    told = capsys.readouterr().out
    assert weighted != plain
    total = encoded["prose"] / 2 + encoded["verse"] * 4
    share = f"{encoded['verse'] * 4 / total:.1%}"
    assert f"source.verse: 4 x {encoded['verse']:,} = {encoded['verse'] * 4:,} tokens an epoch, {share}\n" in told
    rows = re.search(r"packing: stream \(set\), (\d+) rows of 16 tokens an epoch", told)
    assert rows
    assert abs(int(rows[1]) * 16 - total) < 3 * 16
    assert losses({"prose": 0.5, "verse": 4}) != weighted
    assert "packing: documents (objective causal)" in capsys.readouterr().out


def test_a_source_that_is_not_there_stops_it_before_the_first_step(encoded: dict[str, int]) -> None:
    stage = make_stage("pretrain", {"prose": 0, "verse": 0})
    with pytest.raises(HallmarkError, match="source_weights: with these weights an epoch has 0 tokens"):
        pretrain.main(stage)
    assert not PRETRAINED.exists()
