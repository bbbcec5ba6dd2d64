"""Exact match and F1 against a plain second writing of SQuAD's rules, by hand and on random answers."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.common.answers import Answer
from pipeline.tasks.answer_metrics import (
    answer_figures,
    are_unspaced,
    best_threshold,
    outcomes,
    score,
    score_all,
    words_and_characters,
)

PARTS = [
    "the",
    "The",
    "a",
    "an",
    "Answer",
    "answer",
    "is",
    "U.S.",
    "42",
    "don't",
    "—",
    "...",
    "!",
    "北京",
    "市",
    "，",
    " ",
]
ANSWER = st.lists(st.sampled_from(PARTS), max_size=5).map(" ".join) | st.text(max_size=8)


def squad_words(text: str) -> list[str]:
    """The rules one after another, sign by sign: lower case, no punctuation, no articles, split at white space."""
    kept = ""
    for sign in text.lower():
        if sign not in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~":
            kept += sign
    return [word for word in re.split(r"\s+", re.sub(r"\b(?:the|an|a)\b", " ", kept, flags=re.UNICODE)) if word]


def slow_f1(predicted: list[str], right: list[str]) -> float:
    if not predicted or not right:
        return 1.0 if predicted == right else 0.0
    left, shared = list(right), 0
    for word in predicted:
        if word in left:
            left.remove(word)
            shared += 1
    if shared == 0:
        return 0.0
    precision, recall = shared / len(predicted), shared / len(right)
    return 2 * precision * recall / (precision + recall)


def slow_score(predicted: str, truths: list[str]) -> tuple[float, float]:
    right = [truth for truth in truths if " ".join(squad_words(truth)) != ""]
    if not right:
        right = [""]
    exact = max(1.0 if squad_words(predicted) == squad_words(truth) else 0.0 for truth in right)
    return exact, max(slow_f1(squad_words(predicted), squad_words(truth)) for truth in right)


@settings(deadline=None)
@given(ANSWER, st.lists(ANSWER, max_size=4))
def test_figures_are_those_of_squads_rules(predicted: str, truths: list[str]) -> None:
    exact, f1, _ = score(predicted, truths)
    assert (exact, f1) == pytest.approx(slow_score(predicted, truths), abs=1e-9)


@pytest.mark.parametrize(
    ("predicted", "truths", "exact", "f1"),
    [
        ("The Norman conquest!", ["norman  conquest"], 1, 1),
        ("in the 10th century", ["10th century"], 0, 0.8),
        ("Rome Rome", ["Rome"], 0, 2 / 3),
        ("Rome", ["Paris", "Rome, Italy", "in Rome"], 0, 2 / 3),
        ("", [], 1, 1),
        ("Rome", [], 0, 0),
        ("", ["Rome"], 0, 0),
        ("the", ["a"], 1, 1),  # of both nothing is left
        ("", ["the", "Rome"], 0, 0),  # the first true answer does not count
        ("北京", ["北京市"], 0, 0),
        ("北京市。", ["北京市"], 0, 0),  # the official rules know no punctuation but ASCII's
    ],
)
def test_by_hand(predicted: str, truths: list[str], exact: float, f1: float) -> None:
    assert score(predicted, truths)[:2] == pytest.approx((exact, f1), abs=1e-12)


@pytest.mark.parametrize(
    ("predicted", "truth", "f1"),
    [
        ("北京", "北京市", 0.8),
        ("北京市。", "北京市", 1.0),
        ("1998年", "1998年5月", 2 * 2 / (2 + 4)),
        ("ในกรุงเทพ", "กรุงเทพ", 2 * 7 / (9 + 7)),
        ("the GPU server", "GPU", 2 / 3),
    ],
)
def test_without_spaces_each_character_counts(predicted: str, truth: str, f1: float) -> None:
    assert score(predicted, [truth])[2] == pytest.approx(f1, abs=1e-12)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["the", "Answer", "is", "U.S.", "42", "don't"]), max_size=5).map(" ".join))
def test_with_spaces_the_words_are_the_official_ones(answer: str) -> None:
    assert words_and_characters(answer) == squad_words(answer)


def test_figures_are_means_over_questions_and_sums_can_be_resampled() -> None:
    truths = [[Answer(0, "Rome")], [], [Answer(0, "New York"), Answer(9, "York")]]
    scores = score_all([Answer(0, "Rome"), Answer(3, "x"), Answer(0, "new")], truths)
    assert scores[:, -1].tolist() == [1, 1, 1]
    figures = answer_figures(scores.sum(axis=0))
    assert float(figures["exact_match"]) == pytest.approx(1 / 3)
    assert float(figures["f1"]) == pytest.approx((1 + 0 + 2 / 3) / 3)
    assert answer_figures(scores[[0, 0, 2]].sum(axis=0)[None])["exact_match"] == pytest.approx([2 / 3])
    assert outcomes([Answer(0, "Rome"), Answer(3, "x"), Answer(0, "new")], truths) == [
        ("answerable", "right"),
        ("unanswerable", "wrong"),
        ("answerable", "partly right"),
    ]
    assert outcomes([None, None], [[], [Answer(0, "x")]]) == [
        ("unanswerable", "no answer"),
        ("answerable", "no answer"),
    ]
    assert outcomes([Answer(0, "北京")], [[Answer(0, "北京市")]]) == [("answerable", "partly right")]


def test_characters_count_where_most_answers_have_no_spaces() -> None:
    chinese, english = [Answer(0, "北京")], [Answer(0, "Rome")]
    assert are_unspaced([chinese, chinese, english, []])
    assert not are_unspaced([chinese, english])
    assert not are_unspaced([])


QUESTION = st.tuples(
    st.sampled_from([-np.inf, -2.0, -1.0, 0.0, 1.0, 2.0]),  # lead
    st.sampled_from([0.0, 0.3, 1.0]),  # figure if it is answered
    st.sampled_from([0.0, 1.0]),  # and if it is not
)


@settings(deadline=None)
@given(st.lists(QUESTION, min_size=1, max_size=12))
def test_the_threshold_is_as_good_as_the_best_of_all(questions: list[tuple[float, float, float]]) -> None:
    def mean(threshold: float) -> float:
        return sum(answered if lead > threshold else nothing for lead, answered, nothing in questions) / len(questions)

    found = best_threshold(*np.array(questions).T)
    every = [mean(step / 4) for step in range(-20, 21)]  # leads are whole numbers, so these are all that differ
    assert mean(found) == pytest.approx(max(every))
    if mean(0.0) == pytest.approx(max(every)):
        assert found == 0


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0.0, 1.0), st.booleans()), min_size=1, max_size=12))
def test_it_reaches_what_squads_script_finds(questions: list[tuple[float, bool]]) -> None:
    """The script's search for exact match, written anew: figures of answers are numbers, of no answer 0 or 1."""
    leads = [(-1.0) ** number * number for number in range(len(questions))]  # no two are equal
    best = current = sum(not has_answer for _, has_answer in questions)
    for _, (figure, has_answer) in sorted(zip(leads, questions, strict=True), reverse=True):
        current += figure if has_answer else -1
        best = max(best, current)
    answered = [figure if has_answer else 0.0 for figure, has_answer in questions]
    nothing = [0.0 if has_answer else 1.0 for _, has_answer in questions]
    found = best_threshold(*map(np.array, (leads, answered, nothing)))
    reached = sum(a if lead > found else n for lead, a, n in zip(leads, answered, nothing, strict=True))
    assert reached == pytest.approx(best, abs=1e-6)
