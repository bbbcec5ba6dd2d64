"""The doors from clean text to tokens and the n-gram baseline, on one small table."""

from pathlib import Path

import pandas as pd
import pytest

from pipeline.common.errors import HallmarkError
from pipeline.common.files import read_json, sha256_folder
from pipeline.common.layout import CLEAN_DOCUMENTS, TOKENIZER, metrics_file
from pipeline.common.params import Params, check_params
from pipeline.common.tables import write_table
from pipeline.stages import tokenizer as door
from pipeline.stages.door import Stage
from pipeline.tokenization.tokenizer import Tokenizer
from pipeline.tokenization.training import KINDS, SMALLEST_VOCABULARY
from pipeline.tracking.journal import Journal


def make_stage(vocab_size: int = 340, **settings: object) -> Stage:
    params = Params.model_validate({"tokenizer": {"vocab_size": vocab_size, "training_megabytes": 1, **settings}})
    return Stage("tokenizer", "0" * 64, {}, params, Journal("0" * 64))


@pytest.fixture(autouse=True)
def documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pd.DataFrame:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HALLMARK_HOME", str(tmp_path / ".hallmark"))
    sentence = "Byte pairs that are often together become tokens. 常见的字节对会变成词元。"
    frame = pd.DataFrame({"text": [f"{sentence} {place}" for place in range(50)]})
    frame["split"] = ["validation" if place % 5 == 0 else "train" for place in range(50)]
    write_table(CLEAN_DOCUMENTS, frame)
    return frame


def test_the_report_measures_held_out_text(documents: pd.DataFrame) -> None:
    door.main(make_stage())
    report = read_json(metrics_file("tokenizer"))
    validation = documents.loc[documents["split"] == "validation", "text"]
    assert report["vocab_size"] == Tokenizer.load(TOKENIZER).vocab_size == 340
    assert report["validation"]["characters"] == validation.str.len().sum()
    assert report["validation"]["bytes_per_token"] > 2
    assert 0 < report["validation"]["vocabulary_used"] < 1
    assert len(report["longest_tokens"]) == 20


@pytest.mark.parametrize("kind", KINDS)
def test_it_writes_the_same_bytes_twice(kind: str) -> None:
    door.main(make_stage(kind=kind))
    first = sha256_folder(TOKENIZER), metrics_file("tokenizer").read_bytes()
    door.main(make_stage(kind=kind))
    assert (sha256_folder(TOKENIZER), metrics_file("tokenizer").read_bytes()) == first


def test_a_smaller_vocabulary_is_announced(capsys: pytest.CaptureFixture[str]) -> None:
    door.main(make_stage(vocab_size=5000))
    report = read_json(metrics_file("tokenizer"))
    assert report["vocab_size"] < report["vocab_size_asked"] == 5000
    assert "vocab_size_asked: 5000: the text has too few repeated words" in capsys.readouterr().out


def test_settings_and_unknown_words_of_wordpiece(documents: pd.DataFrame, capsys: pytest.CaptureFixture[str]) -> None:
    unseen = documents.assign(text=documents["text"].where(documents["split"] == "train", "Byte \u16a0"))
    write_table(CLEAN_DOCUMENTS, unseen)
    door.main(make_stage(kind="wordpiece", lowercase=True))
    assert Tokenizer.load(TOKENIZER).encode("BYTE") == Tokenizer.load(TOKENIZER).encode("byte")
    assert "unknown_share: 0." in capsys.readouterr().out
    assert read_json(metrics_file("tokenizer"))["validation"]["unknown_share"] > 0


def test_the_kinds_in_params_are_those_that_there_are() -> None:
    for kind in KINDS:
        assert Params.model_validate({"tokenizer": {"kind": kind}}).tokenizer.kind == kind
    with pytest.raises(HallmarkError, match=", ".join(f"'{kind}'" for kind in list(KINDS)[:-1])):
        check_params({"tokenizer": {"kind": "words"}}, "params.yaml")
    with pytest.raises(HallmarkError, match="lowercase: kind bpe gives back text exactly"):
        check_params({"tokenizer": {"lowercase": True}}, "params.yaml")
    assert Params.model_validate({"tokenizer": {"vocab_size": SMALLEST_VOCABULARY}})
    with pytest.raises(HallmarkError, match=r"tokenizer\.vocab_size"):
        check_params({"tokenizer": {"vocab_size": SMALLEST_VOCABULARY - 1}}, "params.yaml")


def test_no_validation_text_is_refused(documents: pd.DataFrame) -> None:
    write_table(CLEAN_DOCUMENTS, documents.assign(split="train"))
    with pytest.raises(HallmarkError, match="there is no validation text"):
        door.main(make_stage())


def test_missing_documents_are_named() -> None:
    CLEAN_DOCUMENTS.unlink()
    with pytest.raises(HallmarkError, match=r"documents.parquet: this table does not exist"):
        door.main(make_stage())
