"""The benchmark of tasks: the translation arm on a few pairs, what it tells, and what it refuses."""

import gzip
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.arms import translation
from benchmarks.tasks import format_result
from pipeline.tasks.text_metrics import FIGURES
from tests.tasks.pairs import make_rows


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
    small = {"depth": 1, "hidden_size": 16, "num_heads": 2}
    monkeypatch.setattr(translation, "MODEL", translation.MODEL.model_copy(update=small))
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


def test_what_it_refuses(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"multi30k: there is no such folder"):
        main(["tasks", "--data", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"there is no imdb; allowed: multi30k"):
        main(["tasks", "--data", str(tmp_path), "--only", "imdb"])
