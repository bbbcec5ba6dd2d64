"""Kind files: the user's own text and labels become tables, or one message that names all that is wrong."""

from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.common.errors import HallmarkError
from pipeline.common.params import Source, Task
from pipeline.corpus.files import read_files
from pipeline.corpus.rows import DOCUMENT_COLUMNS, Corpus

LABELS = "text,label\n" + "".join(f"第{number}条 review 😀,{'good' if number % 2 else 'bad'}\n" for number in range(60))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with a Chinese, an English and a nested document, and a labelled CSV."""
    folder = tmp_path / "own"
    (folder / "books").mkdir(parents=True)
    (folder / "books" / "红楼梦.txt").write_bytes("满纸荒唐言，一把辛酸泪。\r\n".encode())
    (folder / "one.txt").write_text("One document.\n", encoding="utf-8")
    (folder / "two.md").write_text("# Two\n", encoding="utf-8")
    (folder / "labels.csv").write_text(LABELS, encoding="utf-8")
    (folder / ".hidden.txt").write_text("not read", encoding="utf-8")
    return folder


def read(folder: Path, task: dict[str, Any] | None = None, **source: Any) -> Corpus:
    settings = Source.model_validate({"kind": "files", "path": str(folder)} | source)
    return read_files(settings, {"mood": Task.model_validate({"path": "labels.csv"} | (task or {}))}, seed=1)


def problems_of(folder: Path, task: dict[str, Any] | None = None, **source: Any) -> str:
    with pytest.raises(HallmarkError) as caught:
        read(folder, task, **source)
    return str(caught.value)


def test_files_become_documents_and_labelled_rows(own: Path) -> None:
    corpus = read(own)
    assert corpus.documents.columns.to_list() == DOCUMENT_COLUMNS
    assert corpus.documents["id"].to_list() == ["books/红楼梦.txt", "one.txt", "two.md"]
    assert corpus.documents["text"][0] == "满纸荒唐言，一把辛酸泪。\r\n"
    assert corpus.documents["group"].to_list() == corpus.documents["id"].to_list()
    assert corpus.documents["source"].to_list() == ["**/*.txt", "**/*.txt", "**/*.md"]
    assert set(corpus.documents["split"]) == {"train", "validation"}
    task = corpus.tasks["mood"]
    assert task.columns.to_list() == ["id", "text", "label", "split", "group"]
    assert task[["id", "text", "label", "group"]].iloc[0].to_list() == [
        "labels.csv:2",
        "第0条 review 😀",
        "bad",
        "labels.csv",
    ]
    assert len(corpus.rejected) == 0
    assert set(map(str, [*task.dtypes, *corpus.documents.dtypes, *corpus.rejected.dtypes])) == {"str"}


def test_splits_are_drawn_by_text_so_copies_stay_together(own: Path) -> None:
    rows = "".join(f"text {number},{number % 3}\n" for number in range(500))
    (own / "labels.csv").write_text("text,label\n" + rows + rows, encoding="utf-8")
    task = read(own).tasks["mood"]
    counts = Counter(task["split"])
    assert 140 < counts["test"] < 260
    assert 60 < counts["validation"] < 140
    assert (task.groupby("text")["split"].nunique() == 1).all()


def test_tables_named_after_splits_are_those_splits_and_validation_comes_from_training(own: Path) -> None:
    for name in ("train", "test"):
        (own / f"{name}.csv").write_text(LABELS.replace("第", name), encoding="utf-8")
    rows = read(own, {"path": "t*.csv"}).tasks["mood"]
    splits = {name: set(rows.loc[rows["group"] == f"{name}.csv", "split"]) for name in ("train", "test")}
    assert splits == {"train": {"train", "validation"}, "test": {"test"}}
    alone = read(own, {"path": "train.csv"}).tasks["mood"]
    assert set(alone["split"]) == {"train", "validation", "test"}


def test_a_second_text_is_a_column_of_its_own(own: Path) -> None:
    lines = [f"wet,it rains {number},{'no' if number % 2 else 'yes'}" for number in range(9)]
    (own / "pairs.csv").write_text("\n".join(["premise,hypothesis,label", *lines, "wet,,yes"]), encoding="utf-8")
    corpus = read(own, {"path": "pairs.csv", "text_column": "premise", "pair_column": "hypothesis"})
    rows = corpus.tasks["mood"]
    assert rows.columns.to_list() == ["id", "text", "pair", "label", "split", "group"]
    assert rows[["text", "pair", "label"]].iloc[1].to_list() == ["wet", "it rains 1", "no"]
    assert rows["split"].nunique() == 1  # one text, one side


def test_a_document_that_is_a_held_out_second_text_is_left_out(own: Path) -> None:
    lines = ["text,pair,label,split", "a,One document.,yes,test", "b,# Two,no,train", "c,x,no,validation"]
    (own / "pairs.csv").write_text("\n".join(lines), encoding="utf-8")
    (own / "one.txt").write_text("One document.", encoding="utf-8")
    (own / "two.md").write_text("# Two", encoding="utf-8")
    corpus = read(own, {"path": "pairs.csv", "pair_column": "pair", "split_column": "split"})
    assert corpus.facts["documents_held_out_by_tasks"] == 1
    assert set(corpus.documents["text"]) >= {"# Two"}
    assert "One document." not in set(corpus.documents["text"])


def test_columns_are_mapped_and_splits_and_ids_are_taken(own: Path) -> None:
    rows = "key,body,class,part\n7,eins,1,train\n8,zwei,0,validation\n9,drei,1,test\n"
    (own / "labels.csv").write_text(rows, encoding="utf-8")
    mapping = {"text_column": "body", "label_column": "class", "id_column": "key", "split_column": "part"}
    task = read(own, mapping).tasks["mood"]
    assert task["id"].to_list() == ["7", "8", "9"]
    assert task["label"].to_list() == ["1", "0", "1"]
    assert task["split"].to_list() == ["train", "validation", "test"]


def test_numbered_classes_of_any_type_are_labels(own: Path) -> None:
    frame = pd.DataFrame({"text": ["a", "b", "c"], "label": [1.0, 0.0, None]})
    frame.to_parquet(own / "labels.parquet")
    corpus = read(own, {"path": "labels.parquet"})
    assert corpus.tasks["mood"]["label"].to_list() == ["1", "0"]
    assert corpus.rejected[["table", "id"]].iloc[0].to_list() == ["tasks/mood", "labels.parquet:3"]
    assert "not a label" in corpus.rejected["reason"][0]


def test_tables_are_documents_too(own: Path) -> None:
    (own / "more.jsonl").write_text('{"body": "甲", "n": 1}\n{"body": "乙", "n": 2}\n', encoding="utf-8")
    corpus = read(own, documents=["*.jsonl"], text_column="body", id_column="n")
    assert corpus.documents["id"].to_list() == ["1", "2"]
    assert corpus.documents["text"].to_list() == ["甲", "乙"]


def test_globs_have_names_and_a_file_is_of_the_first_that_finds_it(own: Path) -> None:
    documents = read(own, documents={"novels": "books/*.txt", "notes": "*.md", "rest": "**/*.txt"}).documents
    assert documents["id"].to_list() == ["books/红楼梦.txt", "one.txt", "two.md"]
    assert documents["source"].to_list() == ["novels", "rest", "notes"]
    pd.testing.assert_frame_equal(documents.drop(columns="source"), read(own).documents.drop(columns="source"))


def test_every_named_source_has_to_find_a_file_of_its_own(own: Path) -> None:
    message = problems_of(own, documents={"all": "**/*.txt", "novels": "books/*.txt", "web": "*.html"})
    assert "source.documents: all that 'books/*.txt' finds is found before; name 'novels' first" in message
    assert "matches '*.html'; files there" in message


def test_one_document_is_cut_at_the_end_of_a_line(own: Path) -> None:
    text = "".join(f"line {number}\n" for number in range(100))
    (own / "one.txt").write_text(text, encoding="utf-8")
    documents = read(own, documents=["one.txt"], validation_share=0.1).documents
    assert documents["id"].to_list() == ["one.txt#train", "one.txt#validation"]
    assert documents["split"].to_list() == ["train", "validation"]
    assert "".join(documents["text"]) == text
    assert documents["text"][0].endswith("\n")
    assert 0.05 < len(documents["text"][1]) / len(text) < 0.11


def test_held_out_texts_of_a_task_are_in_no_document(own: Path) -> None:
    corpus = read(own, documents=["labels.csv"])
    task = corpus.tasks["mood"]
    held_out = set(task.loc[task["split"] != "train", "text"])
    assert held_out
    assert not held_out & set(corpus.documents["text"])
    assert corpus.facts["documents_held_out_by_tasks"] == len(held_out)


def test_reading_twice_gives_the_same_tables(own: Path) -> None:
    first, second = read(own), read(own)
    pd.testing.assert_frame_equal(first.documents, second.documents)
    pd.testing.assert_frame_equal(first.tasks["mood"], second.tasks["mood"])


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    message = problems_of(tmp_path / "nowhere")
    assert "source.path: there is no folder" in message
    assert "nowhere" in message


def test_all_problems_are_told_at_once(own: Path) -> None:
    (own / "picture.png").write_bytes(b"\x89PNG")
    message = problems_of(own, {"label_column": "class"}, documents=["*.png", "*.html"])
    assert message.startswith("params.yaml: 2 problems")
    assert "source.documents: " in message
    assert "picture.png: unknown format; allowed: .txt, .md, .jsonl, .csv, .tsv, .parquet, .gz, .zst" in message
    assert "tasks.mood.path: " in message
    assert "labels.csv: no column 'class'; columns there: 'text', 'label'" in message


def test_a_pattern_without_a_match_says_what_is_there(own: Path) -> None:
    message = problems_of(own, {"path": "labels.tsv"}, documents=["*.text"])
    assert f"source.documents: no file in {own} matches '*.text'; files there: 1 .csv, 1 .md, 2 .txt" in message
    assert f"tasks.mood.path: no file in {own} matches 'labels.tsv'" in message


@pytest.mark.parametrize("pattern", ["../labels.csv", "/labels.csv"])
def test_files_outside_the_watched_folder_are_refused(own: Path, pattern: str) -> None:
    assert f"tasks.mood.path: {pattern!r} must lie below source.path" in problems_of(own, {"path": pattern})


def test_labels_in_plain_text_are_refused(own: Path) -> None:
    message = problems_of(own, {"path": "one.txt"})
    assert "one.txt: unknown format; allowed: .jsonl, .csv, .tsv, .parquet, .gz, .zst" in message


def test_wrong_split_names_are_counted(own: Path) -> None:
    (own / "labels.csv").write_text("text,label,split\na,x,train\nb,y,dev\nc,y,dev\nd,x,\n", encoding="utf-8")
    message = problems_of(own, {"split_column": "split"})
    assert "column 'split' says 'dev' in 2 rows, first labels.csv:3; allowed: train, validation, test" in message
    assert "column 'split' says '' in 1 rows, first labels.csv:5" in message


def test_one_class_is_no_classification(own: Path) -> None:
    (own / "labels.csv").write_text("text,label\na,x\nb,x\n", encoding="utf-8")
    assert "tasks.mood: one class only, 'x' in 2 rows; a classification needs two or more" in problems_of(own)


def test_an_empty_corpus_is_refused(own: Path) -> None:
    (own / "labels.csv").write_text("text,label\n", encoding="utf-8")
    assert "tasks.mood.path: not one text was read: the files are empty" in problems_of(own)


def test_text_in_another_encoding_says_how_to_mend_it(own: Path) -> None:
    (own / "one.txt").write_bytes("满纸荒唐言".encode("gb18030"))
    message = problems_of(own, documents=["one.txt"])
    assert "source.documents: not one text was read, 1 set aside: one.txt:1: not UTF-8: byte 0xc2" in message
    assert "iconv" in message


def test_bad_rows_are_set_aside_with_place_and_reason(own: Path) -> None:
    lines = ['{"text": "a", "label": "x"}', '{"text": null, "label": "y"}', '{"text": 5, "label": ""}']
    lines += ['{"text": "b", "label": "y"}', '{"text": "\\ud83d", "label": "y"}', "{"]
    (own / "labels.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (own / "torn.txt.gz").write_bytes(b"no gzip")
    corpus = read(own, {"path": "labels.jsonl"}, documents=["*.txt", "*.gz"])
    assert corpus.tasks["mood"]["text"].to_list() == ["a", "b"]
    rejected = {row["id"]: row for row in corpus.rejected.to_dict("records")}
    assert set(rejected) == {"torn.txt.gz", *(f"labels.jsonl:{number}" for number in (2, 3, 5, 6))}
    assert rejected["labels.jsonl:2"]["reason"] == "'text' is missing, not text"
    assert rejected["labels.jsonl:3"]["reason"] == "'text' is 5 (int), not text; 'label' is empty, not a label"
    assert "surrogate" in rejected["labels.jsonl:5"]["reason"]
    assert rejected["labels.jsonl:6"]["reason"].startswith("not JSON")
    assert rejected["torn.txt.gz"]["reason"].startswith("not a whole gzip file")
    assert rejected["torn.txt.gz"]["table"] == "documents"


def test_tables_without_a_header_are_read_by_number(own: Path) -> None:
    for name in ("train", "dev", "test"):
        lines = [f"第{number}条 {name}\t{number % 2}\n" for number in range(6)]
        (own / f"{name}.tsv").write_text("".join(lines), encoding="utf-8")
    columns = {"text_column": 1, "label_column": 2}
    corpus = read(own, {"path": "*.tsv"} | columns, documents=["train.tsv"], text_column=1)
    task = corpus.tasks["mood"]
    assert task[["id", "text", "label", "split"]].iloc[0].to_list() == ["dev.tsv:1", "第0条 dev", "0", "validation"]
    assert task["split"].value_counts().to_dict() == {"train": 6, "validation": 6, "test": 6}
    assert corpus.documents["id"].to_list() == [f"train.tsv:{number}" for number in range(1, 7)]


def test_numbers_and_names_do_not_mix(own: Path) -> None:
    message = problems_of(own, {"text_column": 1, "id_column": "key"}, text_column=1, documents=["*.jsonl"])
    assert (
        "tasks.mood: text_column by number, but id_column 'key', label_column 'label' by name; allowed: numbers for all"
    ) in message
    pd.DataFrame({"text": ["a"], "label": ["b"]}).to_parquet(own / "labels.parquet")
    message = problems_of(own, {"path": "labels.*", "text_column": 1, "label_column": 2})
    assert "labels.parquet: has no numbered columns; name them, or give .csv or .tsv" in message


def test_a_fault_of_a_numbered_column_says_so(own: Path) -> None:
    (own / "labels.csv").write_text("a,x\nb,y\nc,\n", encoding="utf-8")
    corpus = read(own, {"text_column": 1, "label_column": 2})
    assert corpus.rejected[["id", "reason"]].iloc[0].to_list() == ["labels.csv:3", "column 2 is empty, not a label"]
