from pathlib import Path

import pandas as pd
import pytest

from pipeline.common.files import read_json
from pipeline.common.layout import CLEAN_DOCUMENTS, TOKENIZER, TOKENS, metrics_file
from pipeline.common.params import Params
from pipeline.common.tables import write_table
from pipeline.stages import encode, ngram
from pipeline.stages.door import Stage
from pipeline.tokenization.shards import open_shard
from pipeline.tokenization.tokenizer import Tokenizer
from pipeline.tokenization.training import train_bpe
from pipeline.tracking.journal import Journal

PARAGRAPH = "Tokens are written one document after another. " * 300  # 14 kB


def make_stage(name: str) -> Stage:
    params = Params.model_validate({"encode": {"validation_megabytes": 1}})
    return Stage(name, "0" * 64, {}, params, Journal("0" * 64))


@pytest.fixture(autouse=True)
def tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tokenizer:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HALLMARK_HOME", str(tmp_path / ".hallmark"))
    texts = [f"{place}. {PARAGRAPH}" for place in range(120)]
    splits = ["train"] * 20 + ["validation"] * 100
    sources = ["odd" if place % 2 else "even" for place in range(120)]
    write_table(CLEAN_DOCUMENTS, pd.DataFrame({"text": texts, "split": splits, "source": sources}))
    train_bpe(texts[:20], 400).save(TOKENIZER)
    return Tokenizer.load(TOKENIZER)


def test_all_training_text_and_at_most_the_wished_validation_text(tokenizer: Tokenizer) -> None:
    encode.main(make_stage("encode"))
    train, validation = (open_shard(TOKENS, split, tokenizer.hash) for split in ("train", "validation"))
    assert train.documents == 20
    assert validation.text_bytes == 1_000_000
    found = read_json(metrics_file("encode"))
    assert found["train"]["tokens"] == len(train.tokens)
    assert found["train"]["bytes_per_token"] == train.text_bytes / len(train.tokens)
    assert found["validation"]["documents"] == validation.documents < 100
    for shard, figures in ((train, found["train"]), (validation, found["validation"])):
        assert figures["tokens_by_source"] == shard.tokens_by_source()
        assert sum(figures["tokens_by_source"].values()) == figures["tokens"]
    for place in range(train.documents):
        assert train.sources[train.document_sources[place]] == ("odd" if place % 2 else "even")


def test_a_text_that_is_left_out_takes_its_source_along(tokenizer: Tokenizer) -> None:
    encode.main(make_stage("encode"))
    shard = open_shard(TOKENS, "validation", tokenizer.hash)
    for place in range(shard.documents):
        number = int(tokenizer.decode(shard.document(place)).partition(".")[0])
        assert shard.sources[shard.document_sources[place]] == ("odd" if number % 2 else "even")


def test_the_ngram_door_measures_the_same_text() -> None:
    encode.main(make_stage("encode"))
    ngram.main(make_stage("ngram"))
    encoded, found = read_json(metrics_file("encode")), read_json(metrics_file("ngram"))
    assert found["validation_bytes"] == encoded["validation"]["text_bytes"] == 1_000_000
    assert found["training_bytes"] == encoded["train"]["text_bytes"]
    assert 0 < found["bits_per_byte"] < 1  # the same sentence again and again
