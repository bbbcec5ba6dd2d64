"""Pairs of texts: from parallel line files and from tables, their splits, what is set aside, what is pretrained on."""

import gzip
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import zstandard

from pipeline.common.errors import HallmarkError
from pipeline.common.params import Source, Task, Validate, check_params
from pipeline.corpus.expectations import Examiner
from pipeline.corpus.files import read_files
from pipeline.corpus.forms.texts import TEXTS, parse
from pipeline.corpus.parallel import UnpairedFilesError, partner
from pipeline.corpus.quarantine import judge
from pipeline.corpus.rows import REJECTED_COLUMNS, Corpus, frame

PAIRS = {"train": 6, "val": 2, "test_2016": 3}
TASK = {"kind": "sequence_to_sequence", "path": "pairs/*.en.gz", "target_path": "pairs/*.de.zst"}


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A document, and three pairs of packed files with a line for each pair."""
    folder = tmp_path / "own"
    (folder / "pairs").mkdir(parents=True)
    (folder / "note.txt").write_text("A document.\n", encoding="utf-8")
    for name, count in PAIRS.items():
        write_pair(
            folder, name, [f"{name} {n} a dog" for n in range(count)], [f"{name} {n} ein Hund ü" for n in range(count)]
        )
    return folder


def write_pair(folder: Path, name: str, texts: list[str], targets: list[str]) -> None:
    text, target = ("".join(f"{line}\r\n" for line in lines).encode() for lines in (texts, targets))
    (folder / "pairs" / f"{name}.en.gz").write_bytes(gzip.compress(text))
    (folder / "pairs" / f"{name}.de.zst").write_bytes(zstandard.compress(target))


def read(folder: Path, task: dict[str, Any] | None = None, **source: Any) -> Corpus:
    settings = Source.model_validate({"kind": "files", "path": str(folder), "documents": ["*.txt"]} | source)
    return read_files(settings, {"german": Task.model_validate(TASK | (task or {}))}, seed=1)


def test_lines_of_two_files_are_pairs_in_the_splits_of_their_names(own: Path) -> None:
    table = read(own).tasks["german"]
    assert table.columns.to_list() == ["id", "text", "target", "split", "group"]
    assert table["split"].value_counts().to_dict() == {"train": 6, "test": 3, "validation": 2}
    row = table[table["id"] == "pairs/train.en.gz:3"].iloc[0]
    assert row[["text", "target", "split"]].to_list() == ["train 2 a dog", "train 2 ein Hund ü", "train"]


@pytest.mark.parametrize(
    ("name", "pattern", "target", "expected"),
    [
        ("train.en", "*.en", "*.de", "train.de"),
        ("a.en", "a.en", "b.de", "b.de"),
        ("x/news/1.src", "x/*/*.src", "y/*/*.tgt", "y/news/1.tgt"),
        ("a/b/c.en", "**/*.en", "**/*.de", "a/b/c.de"),
        ("c.en", "**/*.en", "**/*.de", "c.de"),
    ],
)
def test_a_target_is_named_as_its_text(name: str, pattern: str, target: str, expected: str) -> None:
    assert partner(name, pattern, target) == expected


@pytest.mark.parametrize(("pattern", "target"), [("*.en", "train.de"), ("?.en", "?.de"), ("*.en", "../*.de")])
def test_patterns_that_pair_nothing_are_refused(pattern: str, target: str) -> None:
    with pytest.raises(UnpairedFilesError):
        partner("train.en", pattern, target)


def test_unequal_numbers_of_lines_and_missing_partners_are_told_at_once(own: Path) -> None:
    write_pair(own, "val", ["a", "b"], ["c"])
    (own / "pairs" / "train.de.zst").unlink()
    with pytest.raises(HallmarkError) as caught:
        read(own)
    message = str(caught.value)
    pairs = own / "pairs"
    assert f"tasks.german.target_path: {pairs}/val.en.gz has 2 lines and {pairs}/val.de.zst has 1" in message
    assert f"there is no file {pairs}/train.de.zst, which would be the targets of {pairs}/train.en.gz" in message


def test_empty_lines_and_wrong_bytes_are_set_aside(own: Path, tmp_path: Path) -> None:
    write_pair(own, "val", ["a", "", "b", "d"], ["x", "y", "", "w"])
    (own / "pairs" / "test_2016.en.gz").write_bytes(gzip.compress(b"one\nt\xffwo\n"))
    (own / "pairs" / "test_2016.de.zst").write_bytes(zstandard.compress(b"eins\nzwei\n"))
    corpus = read(own)
    assert dict(corpus.rejected[["id", "reason"]].to_numpy()) == {
        "pairs/val.en.gz:3": "'target' is empty, not a text",
        "pairs/test_2016.en.gz:2": "not UTF-8 in test_2016.en.gz",
    }
    settings = Validate(max_quarantined_share=0.5)
    rejected = frame([], REJECTED_COLUMNS)
    verdict = judge("tasks/german", corpus.tasks["german"], rejected, settings, Examiner(tmp_path / "pages"))
    assert not verdict.faults
    assert verdict.quarantined["id"].to_list() == ["pairs/val.en.gz:2"]
    assert "text_not_empty" in verdict.quarantined["reasons"][0]


def test_a_table_has_pairs_in_two_columns(own: Path) -> None:
    rows = pd.DataFrame({"code": [f"def f{n}(): ..." for n in range(30)], "doc": [f"Return {n}." for n in range(30)]})
    rows.to_parquet(own / "docs.parquet")
    table = read(
        own, {"path": "docs.parquet", "target_path": None, "text_column": "code", "label_column": "doc"}
    ).tasks["german"]
    assert len(table) == 30
    assert set(table["split"]) == {"train", "validation", "test"}
    assert table["target"].str.startswith("Return").all()


def test_pairs_become_documents_but_for_what_is_tested(own: Path) -> None:
    write_pair(own, "train", ["one", "two", "test_2016 1 a dog"], ["eins", "zwei", "drei"])
    documents = read(own, {"pretrain_on": True}, documents=[]).documents
    assert set(documents.loc[documents["split"] == "train", "text"]) == {"one", "two", "eins", "zwei", "drei"}
    assert len(documents[documents["split"] == "validation"]) == 4
    assert set(documents["source"]) == {"german"}
    assert len(read(own).documents) == 2  # the one document, cut in two
    (own / "held.txt").write_text("val 0 ein Hund ü", encoding="utf-8")
    assert read(own).facts["documents_held_out_by_tasks"] == 1


def test_settings_of_pairs_are_refused_elsewhere() -> None:
    source = {"kind": "files", "documents": []}
    for task, words in [
        ({"path": "a.csv", "target_path": "b"}, "go with kind sequence_to_sequence only"),
        ({"path": "a.csv", "kind": "sequence_to_sequence"}, "names nothing to pretrain on"),
    ]:
        with pytest.raises(HallmarkError, match=words):
            check_params({"source": source, "tasks": {"x": task}}, "params.yaml")
    task = {"path": "a", "kind": "sequence_to_sequence", "pretrain_on": True}
    weights = {"source_weights": {"x": 2.0}}
    assert check_params({"source": source, "tasks": {"x": task}, "pretrain": weights}, "params.yaml")


def test_one_target_for_all_cannot_be_learned() -> None:
    assert parse(" a ") == "a"
    assert parse(" ") is parse(3) is None
    assert TEXTS.refuse(["a", "a"])
    assert TEXTS.refuse(["a", "b"]) is None
