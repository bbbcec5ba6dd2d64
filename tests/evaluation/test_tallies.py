"""What answers count is what `evaluate` counts, and versions of every kind are compared by it."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.common.figures import NAMES
from pipeline.common.params import Task
from pipeline.evaluation.comparison import Comparison, Tally, compare, measure
from pipeline.evaluation.kinds import EVALUATIONS
from pipeline.evaluation.tallies import (
    COUNTED,
    tally_answers,
    tally_dialogues,
    tally_label_sets,
    tally_labels,
    tally_spans,
    tally_texts,
)
from pipeline.serving.kinds import SERVED
from tests.evaluation.answered import Right, answer_all, make_rows

ROWS = 24
RIGHT = st.lists(st.booleans(), min_size=ROWS, max_size=ROWS)
ONLY_SPOKEN = {"dialogue": "chrf"}  # what `evaluate` leads with here cannot be told from answers


def tally(kind: str, *right: Right) -> Tally:
    """Of models that are right where `right` says so."""
    rows, said = make_rows(kind, len(right[0])), SERVED[kind].said
    predicted = [[said(answer) for answer in answer_all(kind, rows, some)] for some in right]
    return COUNTED[kind].count(rows, predicted, Task.model_validate({"kind": kind}))


def compare_two(kind: str, champion: Right, challenger: Right) -> Comparison:
    return compare(tally(kind, champion, challenger), alpha=0.05, margin=0.01, samples=200)


@pytest.mark.parametrize("kind", COUNTED)
@settings(max_examples=10)
@given(right=RIGHT)
def test_no_version_is_better_than_itself(kind: str, right: list[bool]) -> None:
    found = compare_two(kind, right, right)
    assert (found.verdict, found.difference.low, found.difference.high) == ("not worse", 0.0, 0.0)
    assert found.champion == found.challenger


@pytest.mark.parametrize("kind", [kind for kind in COUNTED if kind != "classification"])
@settings(max_examples=10)
@given(first=RIGHT, second=RIGHT)
def test_two_versions_swapped_have_the_mirrored_interval(kind: str, first: list[bool], second: list[bool]) -> None:
    found, swapped = compare_two(kind, first, second), compare_two(kind, second, first)
    assert (found.champion, found.challenger) == (swapped.challenger, swapped.champion)
    mirrored = (-swapped.difference.value, -swapped.difference.high, -swapped.difference.low)
    assert (found.difference.value, found.difference.low, found.difference.high) == pytest.approx(mirrored, abs=1e-9)
    assert (found.verdict == "better") <= (swapped.verdict == "worse")


def test_classifiers_swapped_have_it_but_for_the_noise_of_resampling() -> None:
    generator = np.random.default_rng(0)
    first, second = (generator.random(200) < share for share in (0.6, 0.65))
    both = [
        compare(tally("classification", *pair), alpha=0.05, margin=0.01).difference
        for pair in ((first, second), (second, first))
    ]
    assert both[0].value == -both[1].value
    assert (both[0].low, both[0].high) == pytest.approx((-both[1].high, -both[1].low), abs=0.005)


@pytest.mark.parametrize("kind", COUNTED)
def test_clear_cases_of_every_kind(kind: str) -> None:
    right = np.arange(80) % 4 > 1
    more = right | (np.arange(80) % 8 == 0)
    assert compare_two(kind, right, more).verdict == "better"
    assert compare_two(kind, more, right).verdict == "worse"


@pytest.mark.parametrize("kind", COUNTED)
def test_the_figure_that_leads_is_the_one_that_evaluate_leads_with(kind: str) -> None:
    task = Task.model_validate({"kind": kind})
    shown = tally(kind, [True, False]).shown
    leading, _ = EVALUATIONS[kind].lead({"measure": task.measure})
    assert shown[0] == ONLY_SPOKEN.get(kind, leading)
    assert set(shown) <= set(NAMES)


def figures(found: Tally, place: int = 0) -> dict[str, Any]:
    return measure(found)[place]


def test_labels_count_over_all_that_occur() -> None:
    found = tally_labels(["a", "a", "b"], (["a", "b", "b"], ["a", "a", "c"]))
    assert figures(found) == pytest.approx({"macro_f1": (2 / 3 + 2 / 3 + 0) / 3, "accuracy": 2 / 3})
    assert figures(found, 1) == pytest.approx({"macro_f1": (1 + 0 + 0) / 3, "accuracy": 2 / 3})


def test_one_label_for_each_text_is_compared_as_classes_are() -> None:
    generator = np.random.default_rng(3)
    columns = [generator.choice(["ant", "bee", "cat"], 300).tolist() for _ in range(3)]
    one, sets = (
        compare(found, alpha=0.05, margin=0.01)
        for found in (
            tally_labels(columns[0], columns[1:]),
            tally_label_sets(as_sets(columns[0]), [as_sets(column) for column in columns[1:]]),
        )
    )
    assert sets.champion == pytest.approx(one.champion)
    assert sets.challenger == pytest.approx(one.challenger)
    assert (sets.examples, sets.discordant, sets.verdict) == (one.examples, one.discordant, one.verdict)
    assert sets.difference.value == pytest.approx(one.difference.value)
    assert sets.difference.low == pytest.approx(one.difference.low, abs=0.01)
    assert sets.difference.high == pytest.approx(one.difference.high, abs=0.01)


def as_sets(column: list[str]) -> list[str]:
    return [f'["{label}"]' for label in column]


def test_of_label_sets_only_whole_ones_are_right() -> None:
    truth, part = ['["ant", "bee"]', "[]"], ['["ant"]', '["cat"]']
    found = tally_label_sets(truth, (part, truth))
    assert [each["accuracy"] for each in measure(found)] == [0.0, 1.0]
    assert figures(found)["macro_f1"] == pytest.approx(1 / 3)
    assert [each.tolist() for each in found.right] == [[False, False], [True, True]]


def test_spans_are_right_with_their_offsets_and_label() -> None:
    one, other = '[{"start": 0, "end": 4, "label": "place"}]', '[{"start": 0, "end": 3, "label": "place"}]'
    found = tally_spans([one, one, "[]"], ([one, other, "[]"], ["[]", "[]", "[]"]))
    assert figures(found) == {"micro_f1": 0.5, "macro_f1": 0.5}
    assert figures(found, 1) == {"micro_f1": 0.0, "macro_f1": 0.0}
    assert figures(tally_spans(["[]"], (["[]"],))) == {"micro_f1": 0.0, "macro_f1": 0.0}


def test_questions_about_a_text_are_drawn_together() -> None:
    truth, nothing = '[{"start": 0, "text": "New York"}]', "[]"
    found = tally_answers([truth, truth, nothing], ([truth, nothing, nothing],), ["x", "x", "y"])
    assert figures(found) == pytest.approx({"f1": 2 / 3, "exact_match": 2 / 3})
    assert (len(found.counts[0]), found.times.tolist()) == (2, [1, 1])


def test_answers_without_spaces_are_compared_by_characters() -> None:
    found = tally_answers(['[{"start": 0, "text": "北京大学"}]'], (['[{"start": 0, "text": "北京"}]'],), ["x"])
    assert found.shown[0] == "character_f1"
    assert figures(found) == pytest.approx({"character_f1": 2 / 3, "f1": 0.0, "exact_match": 0.0})


def test_written_texts_lead_with_the_measure_of_the_task() -> None:
    found = tally_texts(["a b c d e"], (["a b c d e"], ["x"]), "rouge_l")
    assert found.shown == ("rouge_l", "chrf", "bleu", "rouge_1", "rouge_2")
    assert measure(found) == [dict.fromkeys(found.shown, pytest.approx(100)), dict.fromkeys(found.shown, 0.0)]


def test_a_dialogue_that_is_refused_is_answered_with_nothing() -> None:
    dialogue = '[{"role": "user", "content": "1?"}, {"role": "assistant", "content": "One, two."}]'
    found = tally_dialogues([dialogue, dialogue], (["One,  two.", None], [None, None]))
    assert figures(found)["exact_answers"] == figures(found)["answered"] == 0.5
    assert figures(found)["chrf"] > 30
    assert figures(found, 1) == {"chrf": 0.0, "exact_answers": 0.0, "answered": 0.0}
