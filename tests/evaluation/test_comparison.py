"""The fast paired tests against slow truths, and the verdict's rules."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from pipeline.common.errors import HallmarkError
from pipeline.evaluation.comparison import Comparison, Difference, compare, decide, mcnemar_p_value, measure
from pipeline.evaluation.tallies import tally_labels

CLASSES = ["ant", "bee", "cat"]


def draw(seed: int, examples: int, champion_right: float, challenger_right: float) -> tuple[list[str], ...]:
    """Labels and two models' predictions that are right with the given probabilities."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(CLASSES, examples)
    columns = [labels]
    for right in (champion_right, challenger_right):
        columns.append(np.where(generator.random(examples) < right, labels, generator.choice(CLASSES, examples)))
    return tuple(column.tolist() for column in columns)


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_is_the_two_sided_binomial_test(first: int, second: int) -> None:
    expected = binomtest(first, first + second, 0.5).pvalue if first + second else 1.0
    assert mcnemar_p_value(first, second) == pytest.approx(expected, rel=1e-9)


def compare_labels(columns: Sequence[list[str]], alpha: float = 0.05, samples: int = 1000, seed: int = 0) -> Comparison:
    """Columns: labels, champion, challenger."""
    labels, *both = columns
    return compare(tally_labels(labels, both, CLASSES), alpha=alpha, margin=0.01, samples=samples, seed=seed)


def test_the_interval_is_that_of_resampling_the_examples_themselves() -> None:
    columns = draw(seed=3, examples=400, champion_right=0.6, challenger_right=0.7)
    fast = compare_labels(columns, samples=20_000, seed=1).difference
    rows = np.array(columns).T
    generator = np.random.default_rng(2)
    slow = []
    for _ in range(1_000):
        drawn = rows[generator.integers(0, len(rows), len(rows))]
        champion, challenger = (
            f1_score(drawn[:, 0], drawn[:, model], labels=CLASSES, average="macro") for model in (1, 2)
        )
        slow.append(challenger - champion)
    low, high = np.quantile(slow, [0.025, 0.975])
    assert fast.low == pytest.approx(low, abs=0.012)  # the quantiles' own noise at 1,000 resamples
    assert fast.high == pytest.approx(high, abs=0.012)


def test_the_figures_are_those_of_scikit_learn() -> None:
    labels, champion, challenger = draw(seed=5, examples=200, champion_right=0.5, challenger_right=0.8)
    result = compare_labels((labels, champion, challenger), samples=100)
    assert result.champion["macro_f1"] == pytest.approx(f1_score(labels, champion, average="macro"))
    assert result.challenger["macro_f1"] == pytest.approx(f1_score(labels, challenger, average="macro"))
    assert result.challenger["accuracy"] == pytest.approx(np.mean(np.array(labels) == np.array(challenger)))
    assert (result.examples, result.leading) == (200, "macro_f1")
    assert measure(tally_labels(labels, [champion, challenger], CLASSES)) == [result.champion, result.challenger]
    assert result.to_dict()["difference"]["value"] == result.difference.value


def test_the_seed_decides_every_bit_and_the_block_size_none(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = draw(seed=7, examples=100, champion_right=0.5, challenger_right=0.6)
    first = compare_labels(columns, samples=500, seed=4)
    monkeypatch.setattr("pipeline.evaluation.resampling.NUMBERS_AT_ONCE", 64)
    assert compare_labels(columns, samples=500, seed=4) == first
    assert compare_labels(columns, samples=500, seed=5) != first


@pytest.mark.parametrize(
    ("champion_right", "challenger_right", "verdict"),
    [(0.5, 0.8, "better"), (0.8, 0.5, "worse"), (0.7, 0.7, "inconclusive")],
)
def test_verdicts_of_clear_cases(champion_right: float, challenger_right: float, verdict: str) -> None:
    columns = draw(seed=11, examples=300, champion_right=champion_right, challenger_right=challenger_right)
    assert compare_labels(columns).verdict == verdict


def test_a_model_is_not_worse_than_itself() -> None:
    labels, model, _ = draw(seed=13, examples=50, champion_right=0.5, challenger_right=0.5)
    result = compare(tally_labels(labels, [model, model]), alpha=0.05, margin=0.0, samples=200)
    assert (result.verdict, result.difference.low, result.difference.high) == ("not worse", 0.0, 0.0)
    assert result.discordant is not None
    assert result.discordant.p_value == 1.0


def test_a_handful_of_texts_is_too_few_for_any_verdict() -> None:
    for texts, verdict in ((9, "inconclusive"), (10, "better")):
        tally = tally_labels(["ant"] * texts, (["bee"] * texts, ["ant"] * texts))
        assert compare(tally, alpha=0.05, margin=0.01, samples=50).verdict == verdict


def test_equal_models_are_seldom_called_better() -> None:
    verdicts = [compare_labels(draw(seed, 150, 0.6, 0.6), alpha=0.1, samples=400).verdict for seed in range(200)]
    assert verdicts.count("better") <= 20  # 5 % expected of 200 draws; 20 is far outside its noise


@pytest.mark.parametrize(
    ("low", "high", "accuracy_lost", "verdict"),
    [
        (0.01, 0.05, False, "better"),
        (0.01, 0.05, True, "inconclusive"),  # macro-F1 rose, accuracy fell
        (-0.005, 0.05, False, "not worse"),
        (-0.005, -0.001, False, "not worse"),  # surely lower, and surely within the margin
        (-0.005, 0.05, True, "worse"),
        (-0.05, 0.05, False, "inconclusive"),
        (-0.05, -0.001, False, "worse"),
    ],
)
def test_rules_of_the_verdict(low: float, high: float, accuracy_lost: bool, verdict: str) -> None:
    assert decide(Difference((low + high) / 2, low, high), accuracy_lost, margin=0.01) == verdict


def test_impossible_inputs_are_refused() -> None:
    with pytest.raises(HallmarkError, match="without any text"):
        compare_labels(([], [], []))
    with pytest.raises(HallmarkError, match=r"unknown label 'dog'.*allowed: ant, bee, cat"):
        compare_labels((["ant"], ["dog"], ["ant"]))
    with pytest.raises(HallmarkError, match="1 labels and 1 and 2 predictions cannot be compared"):
        compare_labels((["ant"], ["ant"], ["ant", "bee"]))
