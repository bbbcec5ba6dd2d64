"""The fast paired tests against slow truths, and the verdict's rules."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import f1_score

from pipeline.common.errors import HallmarkError
from pipeline.common.label_sets import labels_to_json
from pipeline.evaluation.comparison import (
    Difference,
    compare,
    compare_sets,
    decide,
    macro_f1_pairs,
    mcnemar_p_value,
    measure,
    measure_sets,
)

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


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60))
def test_counts_give_the_macro_f1_of_the_examples_they_stand_for(seed: int, examples: int) -> None:
    generator = np.random.default_rng(seed)
    cells_K3 = np.unique(generator.integers(0, len(CLASSES), (examples, 3)), axis=0)
    counts_SK = generator.multinomial(examples, np.full(len(cells_K3), 1 / len(cells_K3)), size=2)
    fast_S2 = macro_f1_pairs(cells_K3, counts_SK, len(CLASSES))
    for counts_K, fast_2 in zip(counts_SK, fast_S2, strict=True):
        rows_N3 = np.repeat(cells_K3, counts_K, axis=0)
        slow_2 = [
            f1_score(rows_N3[:, 0], rows_N3[:, model], labels=range(3), average="macro", zero_division=0)
            for model in (1, 2)
        ]
        np.testing.assert_allclose(fast_2, slow_2, atol=1e-12)


def test_the_interval_is_that_of_resampling_the_examples_themselves() -> None:
    columns = draw(seed=3, examples=400, champion_right=0.6, challenger_right=0.7)
    fast = compare(*columns, classes=CLASSES, alpha=0.05, margin=0.01, samples=20_000, seed=1).macro_f1_difference
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
    result = compare(labels, champion, challenger, classes=CLASSES, alpha=0.05, margin=0.01, samples=100)
    assert result.champion.macro_f1 == pytest.approx(f1_score(labels, champion, average="macro"))
    assert result.challenger.macro_f1 == pytest.approx(f1_score(labels, challenger, average="macro"))
    assert result.challenger.accuracy == pytest.approx(np.mean(np.array(labels) == np.array(challenger)))
    assert result.accuracy_difference == pytest.approx(result.challenger.accuracy - result.champion.accuracy)
    assert measure(labels, champion, CLASSES) == result.champion
    assert result.to_dict()["macro_f1_difference"]["value"] == result.macro_f1_difference.value


def test_the_seed_decides_every_bit_and_the_block_size_none(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = draw(seed=7, examples=100, champion_right=0.5, challenger_right=0.6)
    options = {"classes": CLASSES, "alpha": 0.05, "margin": 0.01, "samples": 500}
    first = compare(*columns, **options, seed=4)
    monkeypatch.setattr("pipeline.evaluation.comparison.CELLS_AT_ONCE", 64)
    assert compare(*columns, **options, seed=4) == first
    assert compare(*columns, **options, seed=5) != first


@pytest.mark.parametrize(
    ("champion_right", "challenger_right", "verdict"),
    [(0.5, 0.8, "better"), (0.8, 0.5, "worse"), (0.7, 0.7, "inconclusive")],
)
def test_verdicts_of_clear_cases(champion_right: float, challenger_right: float, verdict: str) -> None:
    columns = draw(seed=11, examples=300, champion_right=champion_right, challenger_right=challenger_right)
    assert compare(*columns, classes=CLASSES, alpha=0.05, margin=0.01, samples=1000).verdict == verdict


def test_a_model_is_not_worse_than_itself() -> None:
    labels, model, _ = draw(seed=13, examples=50, champion_right=0.5, challenger_right=0.5)
    result = compare(labels, model, model, classes=CLASSES, alpha=0.05, margin=0.0, samples=200)
    assert (result.verdict, result.accuracy_p_value, result.macro_f1_difference.high) == ("not worse", 1.0, 0.0)


def test_equal_models_are_seldom_called_better() -> None:
    verdicts = [
        compare(*draw(seed, 150, 0.6, 0.6), classes=CLASSES, alpha=0.1, margin=0.01, samples=400).verdict
        for seed in range(200)
    ]
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
    with pytest.raises(HallmarkError, match="0 labels"):
        compare([], [], [], classes=CLASSES, alpha=0.05, margin=0.01)
    with pytest.raises(HallmarkError, match=r"unknown label 'dog'.*allowed: ant, bee, cat"):
        compare(["ant"], ["dog"], ["ant"], classes=CLASSES, alpha=0.05, margin=0.01)
    with pytest.raises(HallmarkError, match="cannot be compared"):
        compare(["ant"], ["ant", "bee"], ["ant"], classes=CLASSES, alpha=0.05, margin=0.01)


def as_sets(column: list[str]) -> list[str]:
    return [labels_to_json([label]) for label in column]


def test_one_label_for_each_text_is_compared_as_classes_are() -> None:
    columns = draw(seed=3, examples=300, champion_right=0.6, challenger_right=0.75)
    one = compare(*columns, classes=CLASSES, alpha=0.05, margin=0.01)
    sets = compare_sets(*map(as_sets, columns), classes=CLASSES, alpha=0.05, margin=0.01)
    assert sets.champion.accuracy == one.champion.accuracy
    for name in ("examples", "only_champion_right", "only_challenger_right", "accuracy_p_value", "verdict"):
        assert getattr(sets, name) == getattr(one, name), name
    assert sets.accuracy_difference == pytest.approx(one.accuracy_difference)
    assert sets.challenger.macro_f1 == pytest.approx(one.challenger.macro_f1)
    difference = sets.macro_f1_difference
    assert difference.value == pytest.approx(one.macro_f1_difference.value)
    assert difference.low == pytest.approx(one.macro_f1_difference.low, abs=0.01)
    assert difference.high == pytest.approx(one.macro_f1_difference.high, abs=0.01)
    alone = measure_sets(as_sets(columns[0]), as_sets(columns[1]), CLASSES)
    assert alone.macro_f1 == pytest.approx(one.champion.macro_f1)


def test_of_label_sets_only_whole_ones_are_right() -> None:
    truth, part, all_ = ['["ant", "bee"]', "[]"], ['["ant"]', '["cat"]'], ['["ant", "bee"]', "[]"]
    found = compare_sets(truth, part, all_, classes=CLASSES, alpha=0.05, margin=0.01, samples=50)
    assert (found.champion.accuracy, found.challenger.accuracy) == (0.0, 1.0)
    assert found.champion.macro_f1 == pytest.approx(1 / 3)
    assert found.only_challenger_right == 2
