"""The tasks that documentation gives: rows with labels found by rule, what is left out is counted, nothing leaks."""

import json
from collections import Counter

import pytest

from pipeline.common.params import Source
from pipeline.common.spans import spans_from_json
from pipeline.corpus.docs_tasks import COLUMNS, Passage, draw_rows, make_describe, make_parameters
from pipeline.corpus.forms.labelled_spans import SPANS, find_faults
from pipeline.corpus.near_duplicates import first_of_their_kind
from pipeline.corpus.python_docs import read_python_docs
from pipeline.corpus.rows import Corpus
from tests.corpus.conftest import Install

FIT = """Fit a line.

Parameters
----------
x, y : array, optional
    The points.
y : int
    Again.
z : int, default 3
"""


def passage(text: str) -> Passage:
    return Passage("a/a.py:1", text, "train", "a")


def test_parameters_are_labelled_spans() -> None:
    made = make_parameters([passage(FIT), passage("None here."), passage(FIT + " " * 3000), passage(FIT + "\nProse.")])
    [row] = made.rows
    assert row[:2] + row[3:] == ("a/a.py:1", FIT, "train", "a")
    spans = [(FIT[span.start : span.end], span.label) for span in spans_from_json(row[2])]
    assert spans == [
        *(("x", "name"), ("y", "name"), ("array", "type"), ("y", "name"), ("int", "type")),
        *(("z", "name"), ("int", "type"), ("3", "default")),
    ]
    assert made.left_out == Counter({"too_long": 1, "unclear_entry": 1})


def test_descriptions_are_answers() -> None:
    made = make_describe([passage(FIT)])
    answers = json.dumps([{"start": FIT.index("The points"), "text": "The points."}])
    assert made.rows == [("a/a.py:1:x", FIT, "What is the parameter x?", answers, "train", "a")]
    assert made.left_out == Counter({"name_twice": 2, "no_description": 1})


def test_a_larger_draw_holds_a_smaller_one_in_order() -> None:
    rows: list[tuple[str, ...]] = [(f"r{number}", "text") for number in range(50)]
    few, many = draw_rows(rows, 10, seed=1), draw_rows(rows, 20, seed=1)
    assert (len(few), len(many)) == (10, 20)
    assert set(few) < set(many)
    assert many == sorted(many, key=rows.index)
    assert draw_rows(rows, 10, seed=2) != few
    assert draw_rows(rows, 50, seed=1) == rows


TASKS = ("parameters", "describe", "summarise")


@pytest.fixture(scope="module")
def real() -> Corpus:
    """A small real library."""
    source = Source.model_validate({"libraries": ["networkx"], "test_share": 0.2, "task_rows": 400})
    return read_python_docs(source, seed=1, tasks=TASKS)


def test_only_the_tasks_that_are_named_are_made(real: Corpus) -> None:
    assert set(real.tasks) == set(TASKS)
    for task, table in real.tasks.items():
        assert table.columns.to_list() == COLUMNS[task]
        assert set(map(str, table.dtypes)) == {"str"}
        assert table["id"].is_unique
        assert set(table["split"]) == {"train", "validation", "test"}
        assert len(table) == 400
        assert real.facts[f"{task}.found"] == 400 + real.facts[f"{task}.not_drawn"]


def test_labels_are_where_they_should_be(real: Corpus) -> None:
    parameters, describe = real.tasks["parameters"], real.tasks["describe"]
    assert parameters.columns.to_list() == SPANS.columns(with_pair=False)
    assert not any(fault for faults in find_faults(parameters).values() for fault in faults)
    labels = Counter(span.label for row in parameters["spans"] for span in spans_from_json(row))
    assert set(labels) == {"name", "type", "default"}
    for row in describe.itertuples():
        [answer] = json.loads(str(row.answers))
        assert str(row.text)[answer["start"] :].startswith(answer["text"])
        assert f"parameter {str(row.id).rpartition(':')[2]}?" in str(row.pair)


def test_nothing_held_out_is_read_before(real: Corpus) -> None:
    documents = real.documents.groupby("split")["group"].agg(set)
    for table in real.tasks.values():
        modules = table.groupby("split")["group"].agg(set)
        assert not modules["test"] & (documents["train"] | documents["validation"] | modules["train"])
        assert not modules["validation"] & documents["train"]
        assert (table.groupby("text")["split"].nunique() == 1).all()
    summarise = real.tasks["summarise"]
    assert all(first_of_their_kind(summarise["text"]))
    assert real.facts["summarise.left_out.near_duplicate"] > 0
    train = "\n".join(real.documents["text"])
    assert not [text for text in summarise["text"] if text in train]


def test_a_copy_of_a_held_out_function_goes_from_training(install: Install) -> None:
    code = "    total = 0\n    for number in numbers:\n        total += number * weight\n    return total\n"
    text = (
        '"""Module {0} of many others that are here."""\ndef add(numbers, weight):\n    """Add them up, {0}."""\n'
        + code
    )
    install("alpha", {f"a/m{number:02}.py": text.format(number) for number in range(30)})
    source = Source.model_validate({"libraries": ["alpha"], "min_characters": 10, "test_share": 0.2})
    [split] = read_python_docs(source, seed=1, tasks=["summarise"]).tasks["summarise"]["split"]
    assert split == "test"
