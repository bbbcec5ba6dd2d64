"""CoNLL columns and JSONL spans: read, refused with a reason, and validated as spans."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.common.errors import HallmarkError
from pipeline.common.params import Source, Task, Validate
from pipeline.common.spans import Span, spans_from_json, spans_to_json
from pipeline.corpus.conll import join_words, read_sentences
from pipeline.corpus.expectations import Examiner
from pipeline.corpus.files import read_files
from pipeline.corpus.forms.labelled_spans import SPANS
from pipeline.corpus.quarantine import judge
from pipeline.corpus.readers import Row, Unreadable
from pipeline.corpus.rows import REJECTED_COLUMNS, Corpus, frame

SPAN_COLUMNS = SPANS.columns(with_pair=False)


def read(path: Path, content: str, tag_column: int | None = None) -> list[tuple[str, list[tuple[str, str]]] | str]:
    """Each sentence as (text, [(words of a span, label)]), or its fault."""
    path.write_text(content, encoding="utf-8")
    found: list[Any] = []
    for row in read_sentences(path, tag_column):
        if isinstance(row, Unreadable):
            found.append(row.reason)
        else:
            text = row.values["text"]
            found.append((text, [(text[s["start"] : s["end"]], s["label"]) for s in row.values["spans"]]))
    return found


def test_bio_bioes_and_plain_tags_are_spans(tmp_path: Path) -> None:
    sentence = ("New York is near Rome", [("New York", "LOC"), ("Rome", "LOC")])
    bio = "New\tB-LOC\nYork\tI-LOC\nis\tO\nnear\tO\nRome\tB-LOC\n"
    assert read(tmp_path / "a.conll", f"-DOCSTART-\tO\n\n# id = 3\n{bio}\t\n\n{bio}") == [sentence, sentence]
    bioes = bio.replace("I-LOC", "E-LOC").replace("Rome\tB", "Rome\tS")
    assert read(tmp_path / "b.conll", bioes) == [sentence]
    assert read(tmp_path / "c.conll", "Dogs NOUN\nbark VERB\n") == [("Dogs bark", [("Dogs", "NOUN"), ("bark", "VERB")])]
    assert read(tmp_path / "d.conll", "# O\nRome B-X\n") == [("# Rome", [("Rome", "X")])]


def test_neighbours_of_one_label_stay_two_spans(tmp_path: Path) -> None:
    assert read(tmp_path / "a.conll", "a B-X\nb B-X\nc I-X\n") == [("a b c", [("a", "X"), ("b c", "X")])]


def test_the_tag_is_the_last_column_or_the_one_that_is_named(tmp_path: Path) -> None:
    content = "EU NNP B-NP B-ORG\nrejects VBZ B-VP O\n"
    assert read(tmp_path / "a.conll", content) == [("EU rejects", [("EU", "ORG")])]
    assert read(tmp_path / "a.conll", content, 3) == [("EU rejects", [("EU", "NP"), ("rejects", "VP")])]
    assert read(tmp_path / "a.conll", content, 5) == ["line 1 has 4 columns: no word and tag in them"]


def test_scripts_without_spaces_are_joined_without(tmp_path: Path) -> None:
    assert join_words(["我", "在", "北", "京", "use", "it"]) == (
        "我在北京 use it",
        [(0, 1), (1, 2), (2, 3), (3, 4), (5, 8), (9, 11)],
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a O\nb I-X\n", "I-X at word 2 follows O: no span that it could go on with"),
        ("a I-X\n", "I-X at word 1 follows the beginning: no span that it could go on with"),
        ("a B-X\nb I-Y\n", "I-Y at word 2 follows B-X: no span that it could go on with"),
        ("a B-X\nb O\nc S-X\n", "O at word 2 follows B-X: that span has no end (E-X)"),
        ("a S-X\nb B-X\n", "the end follows B-X: that span has no end (E-X)"),
        ("a B-X\nb E-Y\n", "E-Y at word 2 follows B-X: no span that it could go on with"),
        ("a B-X\nb NOUN\nc O\n", "'NOUN' at word 2 is no tag of BIO"),
        ("a B-X\nb\n", "line 4 has 1 column: no word and tag in them"),
    ],
)
def test_a_broken_sentence_is_set_aside_and_its_neighbours_stay(tmp_path: Path, content: str, reason: str) -> None:
    whole = "good S-X\n" if "S-" in content or "E-" in content else "good B-X\n"
    assert read(tmp_path / "a.conll", f"{whole}\n{content}\n{whole}") == [
        ("good", [("good", "X")]),
        reason,
        ("good", [("good", "X")]),
    ]


def test_wrong_bytes_and_torn_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_bytes(b"caf\xe9 O\n\nRome B-X\n")
    found = list(read_sentences(tmp_path / "a.conll"))
    assert isinstance(found[0], Unreadable)
    assert found[0].reason == "line 1 is not UTF-8"
    assert isinstance(found[1], Row)
    (tmp_path / "b.conll.gz").write_bytes(gzip.compress(b"Rome B-X\n" * 1000)[:-9])
    last = list(read_sentences(tmp_path / "b.conll.gz"))[-1]
    assert isinstance(last, Unreadable)
    assert "not a whole gzip file" in last.reason


def corpus_of(folder: Path, path: str, **task: Any) -> Corpus:
    (folder / "text.txt").write_text("text", encoding="utf-8")
    settings = Source.model_validate({"kind": "files", "path": str(folder), "documents": ["text.txt"]})
    return read_files(
        settings, {"names": Task.model_validate({"kind": "token_classification", "path": path, **task})}, 1
    )


def test_files_named_after_splits_are_those_splits_and_others_are_drawn(tmp_path: Path) -> None:
    sentences = "".join(f"word{number} B-X\n\n" for number in range(50))
    for name in ("train", "dev", "test", "more"):
        (tmp_path / f"{name}.conll").write_text(sentences.replace("word", name), encoding="utf-8")
    rows = corpus_of(tmp_path, "*.conll").tasks["names"]
    assert rows.columns.to_list() == SPAN_COLUMNS
    splits = {
        name: set(rows.loc[rows["group"] == f"{name}.conll", "split"]) for name in ("train", "dev", "test", "more")
    }
    assert splits == {
        "train": {"train"},
        "dev": {"validation"},
        "test": {"test"},
        "more": {"train", "validation", "test"},
    }
    assert rows["id"][0] == "dev.conll:1"
    assert spans_from_json(rows["spans"][0]) == [Span(0, 4, "X")]


def test_jsonl_spans_are_read_and_what_is_no_span_is_set_aside(tmp_path: Path) -> None:
    lines = [
        {"text": "See Rome", "spans": [{"start": 4, "end": 8, "label": "LOC"}], "split": "train"},
        {"text": "nothing", "spans": [], "split": "test"},
        {"text": "x", "spans": [{"start": 0, "label": "LOC"}], "split": "test"},
        {"text": "y", "spans": [{"start": 0.5, "end": 1, "label": "LOC"}], "split": "test"},
        {"text": "z", "spans": None, "split": "test"},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    corpus = corpus_of(tmp_path, "a.jsonl", split_column="split")
    assert corpus.tasks["names"]["spans"].to_list() == [spans_to_json([Span(4, 8, "LOC")]), "[]"]
    assert corpus.rejected["id"].to_list() == ["a.jsonl:3", "a.jsonl:4", "a.jsonl:5"]
    assert all('not a list of {"start", "end", "label"}' in reason for reason in corpus.rejected["reason"])


def test_texts_without_any_span_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("a O\n\nb O\n", encoding="utf-8")
    with pytest.raises(HallmarkError, match=r"tasks\.names: not one of the 2 texts has a span"):
        corpus_of(tmp_path, "a.conll")


def spans(*found: tuple[int, int, str]) -> str:
    return spans_to_json(Span(*span) for span in found)


def test_rows_whose_spans_are_wrong_are_quarantined_with_their_reasons(tmp_path: Path) -> None:
    good = [
        (f"{split}-{number}", f"{split} {number} Rome", spans((0, 4, "X")), split, "file")
        for split in ("train", "validation", "test")
        for number in range(3)
    ]
    bad = [
        ("outside", "Rome", spans((0, 5, "X")), "train", "file"),
        ("empty", "Romes", spans((1, 1, "X")), "train", "file"),
        ("negative", "Rome!", spans((-1, 3, "X")), "train", "file"),
        ("overlap", "Rome is", spans((0, 4, "X"), (2, 7, "X")), "train", "file"),
        ("blank", "in Rome", spans((2, 7, "X")), "train", "file"),
        ("unknown", "to Rome", spans((3, 7, "X"), (0, 2, "Y")), "test", "file"),
    ]
    table = frame(good + bad, SPAN_COLUMNS)
    limits = Validate(max_quarantined_share=0.5)
    verdict = judge("tasks/names", table, frame([], REJECTED_COLUMNS), limits, Examiner(tmp_path / "docs"))
    assert verdict.faults == []
    assert verdict.clean["id"].to_list() == [row[0] for row in good]
    assert verdict.clean.columns.to_list() == SPAN_COLUMNS
    reasons = dict(zip(verdict.quarantined["id"], verdict.quarantined["reasons"], strict=True))
    assert {name: reason.split(" ")[0] for name, reason in reasons.items()} == {
        "outside": "span_outside",
        "empty": "span_outside",
        "negative": "span_outside",
        "overlap": "span_overlap",
        "blank": "span_blank",
        "unknown": "label_known",
    }


def test_a_table_that_has_nothing_to_learn_is_refused(tmp_path: Path) -> None:
    rows = [
        (split, f"{split} Rome", spans((0, 4, "X")) if split == "test" else "[]", split, "f")
        for split in ("train", "validation", "test")
    ]
    verdict = judge(
        "tasks/names",
        frame(rows, SPAN_COLUMNS),
        frame([], REJECTED_COLUMNS),
        Validate(),
        Examiner(tmp_path / "docs"),
    )
    assert any("spans_to_learn" in fault for fault in verdict.faults)
