"""The benchmark of tasks: each arm on a few made rows, what it tells, and what it refuses."""

import gzip
import json
import random
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.arms import entities, sentiment, translation
from benchmarks.arms.crf import predict_by_crf
from benchmarks.tasks import format_result, write_charts
from pipeline.common.params import Pretrain
from pipeline.common.spans import Span
from pipeline.tasks.text_metrics import FIGURES
from tests.tasks.pairs import make_rows

SMALL = {"depth": 1, "hidden_size": 16, "num_heads": 2}
SPLITS = {"train": 40, "dev": 12, "test": 20}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "multi30k").mkdir()
    rows = make_rows(24)
    for split, name in (("train", "train"), ("validation", "val"), ("test", "test_2016_flickr")):
        of_split = rows[rows["split"] == split]
        for column, language in (("text", "en"), ("target", "de")):
            lines = "".join(f"{line}\n" for line in of_split[column]).encode()
            (tmp_path / "multi30k" / f"{name}.{language}.gz").write_bytes(gzip.compress(lines))
    return tmp_path


def test_a_translation_is_learned_and_measured(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translation, "VOCABULARY", 320)
    monkeypatch.setattr(translation, "MODEL", translation.MODEL.model_copy(update=SMALL))
    monkeypatch.setattr(translation, "FINETUNE", translation.FINETUNE.model_copy(update={"batch_size": 8}))
    found = translation.multi30k(data, seed=1, epochs=2)
    test = set(make_rows(24).query("split == 'test'")["text"])
    assert found["pairs"] == sum(text not in test for text in make_rows(24).query("split == 'train'")["text"])
    assert found["epochs"] == 2
    assert found["compiled"] is False
    assert set(found["figures"]) == set(FIGURES)
    assert found["figures"]["bleu"]["low"] <= found["figures"]["bleu"]["high"]
    assert "tok:13a" in found["signatures"]["bleu"]
    assert [set(point) >= {"seconds", "loss", "bleu"} for point in found["curve"]] == [True]
    table = format_result({"tasks": {"multi30k": found | {"target": 38.0}}})
    assert "wanted 38" in table
    assert "validation loss" in table


def make_small(monkeypatch: pytest.MonkeyPatch, arm: Any) -> None:
    monkeypatch.setattr(arm, "TOKENIZER", arm.TOKENIZER.model_copy(update={"vocab_size": 320}))
    monkeypatch.setattr(arm, "MODEL", arm.MODEL.model_copy(update=SMALL))
    monkeypatch.setattr(arm, "PRETRAIN", Pretrain(steps=2, batch_tokens=128))
    monkeypatch.setattr(arm, "FINETUNE", arm.FINETUNE.model_copy(update={"batch_size": 8}))


def write_sentences(folder: Path) -> None:
    folder.mkdir()
    words = random.Random(1)
    for split, count in SPLITS.items():
        lines = [
            f"the film is {words.choice(('bad dull', 'good fine')[label].split())} in its part {split} {row}\t{label}"
            for row in range(count)
            for label in (0, 1)
        ]
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n")


def write_tweets(folder: Path) -> None:
    folder.mkdir()
    words = random.Random(1)
    for split, count in SPLITS.items():
        sentences = [
            f"we\tO\nmet\tO\n{words.choice(('Anna', 'Bob'))}\tB-person\nin\tO\n"
            f"New\tB-place\nYork\tI-place\n{split}{row}\tO\n"
            for row in range(count)
        ]
        (folder / f"{split}.conll").write_text("\n".join(sentences))


def test_sentiment_is_learned_beside_tfidf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sentences(tmp_path / "sst2")
    make_small(monkeypatch, sentiment)
    monkeypatch.setattr(sentiment, "EPOCHS", {4: 1, None: 1})
    monkeypatch.setattr(sentiment, "DRAWS", 2)
    found = sentiment.sst2(tmp_path, seed=1, epochs=None)
    assert [point["labels"] for point in found["curve"]] == [8, 80]
    assert found["sentences"] == 80
    assert found["test_rows"] == 40
    last = found["curve"][-1]
    assert found["comparison"]["challenger"]["accuracy"] == last["hallmark"]["values"][0]
    assert found["comparison"]["champion"]["accuracy"] == last["tfidf"]["values"][0] == 1.0
    assert last["verdict"] == found["comparison"]["verdict"]
    assert len(last["hallmark"]["values"]) == 2
    json.dumps(found)
    table = format_result({"tasks": {"sst2": found}})
    assert "40 sentences at all labels" in table
    assert "accuracy, 2 draws" in table
    write_charts(tmp_path / "charts", {"sst2": found, "wnut17": {}})
    assert [chart.name for chart in (tmp_path / "charts").iterdir()] == ["sst2.svg"]
    assert (tmp_path / "charts" / "sst2.svg").read_text().count("<circle") == 2 * 2 * 2


def test_entities_are_found_beside_other_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tweets(tmp_path / "wnut17")
    make_small(monkeypatch, entities)
    monkeypatch.setattr(entities, "SEEDS", 1)
    monkeypatch.setattr("benchmarks.arms.entities.find_spec", lambda _name: None)
    found = entities.wnut17(tmp_path, seed=1, epochs=1)
    assert found["left_out"] == {"crf": "there is no python-crfsuite; pip install -e .[bench]"}
    assert found["arms"]["word_shapes"]["f1"]["micro"] == 1.0
    assert found["arms"]["predicted"]["f1"]["micro"] == found["seeds"]["values"][0]
    assert found["figures"]["micro_f1"]["value"] == found["arms"]["predicted"]["f1"]["micro"]
    assert set(found["arms"]["predicted"]["per_class"]) == {"person", "place"}
    json.dumps(found)
    table = format_result({"tasks": {"wnut17": found}})
    assert "left out: crf" in table
    assert "F1, logistic regression" in table


@pytest.mark.skipif(find_spec("pycrfsuite") is None, reason="pip install -e .[bench]")
def test_a_chain_learns_which_tag_follows_which() -> None:
    texts = ["in New York now", "in old York now", "by New Delhi now", "by old Delhi now"] * 5
    spans = [[Span(3, 11, "place")], [], [Span(3, 12, "place")], []] * 5
    assert predict_by_crf(texts, spans, ["to New York ?", "to old Delhi ?"], ["place"]) == [[Span(3, 11, "place")], []]


def test_what_it_refuses(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"multi30k: there is no such folder"):
        main(["tasks", "--data", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"there is no imdb; allowed: multi30k, sst2, wnut17"):
        main(["tasks", "--data", str(tmp_path), "--only", "imdb"])
