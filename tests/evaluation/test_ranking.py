"""The paired tests against scipy and slow truths, and the verdict's rules."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_rel
from sklearn.metrics import f1_score

from pipeline.common.errors import HallmarkError
from pipeline.common.tables import write_table
from pipeline.evaluation.ranked_sweep import RankedSweep, label_of, rank_sweep
from pipeline.evaluation.ranking import (
    flops_are_equal,
    holm,
    is_lower_better,
    judge,
    macro_f1_pairs,
    paired_difference,
    pooled_macro_f1_difference,
    rank,
)
from pipeline.evaluation.ranking_page import write_ranking

CLASSES = ["ant", "bee", "cat"]
FIGURES = st.lists(st.tuples(st.floats(-5, 5), st.floats(-5, 5)), min_size=2, max_size=8)


@settings(deadline=None)
@given(FIGURES)
def test_the_test_over_seeds_is_the_paired_t_test(pairs: list[tuple[float, float]]) -> None:
    first = {seed: pair[0] for seed, pair in enumerate(pairs)}
    second = {seed: pair[1] for seed, pair in enumerate(pairs)}
    assume(np.std([a - b for a, b in pairs]) > 1e-6)
    found = paired_difference(first, second | {99: 1.0})
    expected = ttest_rel(list(first.values()), list(second.values()))
    interval = expected.confidence_interval(0.95)
    assert found is not None
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-9)


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


def test_seeds_that_tell_nothing_of_the_noise_prove_nothing() -> None:
    assert paired_difference({1: 0.5}, {2: 0.5}) is None
    one = paired_difference({1: 0.9}, {1: 0.1})
    assert one is not None
    assert (one.value, one.p_value, one.low) == (pytest.approx(0.8), 1.0, -math.inf)
    for gap in (0.0, 0.3):
        same = paired_difference({1: 0.5 + gap, 2: 0.5 + gap, 3: 0.5 + gap}, dict.fromkeys((1, 2, 3), 0.5))
        assert same is not None
        assert same.p_value == 1.0


def rejected_step_by_step(p_values: list[float], alpha: float) -> set[int]:
    """Holm's procedure itself: the smallest p against alpha / m, the next against alpha / (m - 1), until one stays."""
    rejected: set[int] = set()
    for step, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[place] > alpha / (len(p_values) - step):
            break
        rejected.add(place)
    return rejected


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.001, 0.5))
def test_holm_rejects_what_the_step_by_step_procedure_rejects(p_values: list[float], alpha: float) -> None:
    corrected = holm(p_values)
    assume(min(abs(p - alpha) for p in corrected) > 1e-9)
    assert {place for place, p in enumerate(corrected) if p <= alpha} == rejected_step_by_step(p_values, alpha)


def draw(seed: int, examples: int, right: tuple[float, ...]) -> list[pd.DataFrame]:
    """Predictions of the same examples, one table for each share of right answers."""
    generator = np.random.default_rng(seed)
    labels = generator.choice(CLASSES, examples)
    names = [f"row {number}" for number in generator.permutation(examples)]
    columns = [
        np.where(generator.random(examples) < share, labels, generator.choice(CLASSES, examples)) for share in right
    ]
    return [pd.DataFrame({"id": names, "label": labels, "predicted": column}) for column in columns]


COLUMNS = ["label", "predicted"]


def macro_f1(rows: pd.DataFrame) -> float:
    return float(f1_score(rows["label"], rows["predicted"], labels=CLASSES, average="macro", zero_division=0))


def test_the_pooled_bootstrap_is_that_of_drawing_whole_examples() -> None:
    tables = {seed: draw(seed, 150, (0.75, 0.6)) for seed in (1, 2)}
    tables[2][1] = tables[2][1].sample(frac=1, random_state=1)  # the order of the rows does not matter
    first = {seed: pair[0] for seed, pair in tables.items()}
    second = {seed: pair[1] for seed, pair in tables.items()}
    fast = pooled_macro_f1_difference(first, second, samples=20_000, seed=1)
    assert fast is not None
    pooled = [pd.concat(list(side.values())) for side in (first, second)]
    assert fast.value == pytest.approx(macro_f1(pooled[0]) - macro_f1(pooled[1]), abs=1e-12)
    names = sorted(first[1]["id"])
    generator = np.random.default_rng(2)
    by_name = [pd.concat(list(side.values())).groupby("id") for side in (first, second)]
    blocks = [{name: rows[COLUMNS].to_numpy() for name, rows in groups} for groups in by_name]
    slow = []
    for _ in range(300):
        drawn = generator.choice(names, len(names))
        sides = [np.concatenate([side[name] for name in drawn]) for side in blocks]
        scores = [macro_f1(pd.DataFrame(side, columns=COLUMNS)) for side in sides]
        slow.append(scores[0] - scores[1])
    spread = float(np.std(slow))
    assert (fast.low, fast.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=0.4 * spread)


def test_the_same_answers_under_every_seed_are_no_new_evidence() -> None:
    first, second = draw(3, 120, (0.7, 0.62))
    alone = pooled_macro_f1_difference({1: first}, {1: second})
    again = pooled_macro_f1_difference(dict.fromkeys(range(8), first), dict.fromkeys(range(8), second))
    assert alone is not None
    assert again is not None
    assert (again.low, again.high) == pytest.approx((alone.low, alone.high), abs=1e-9)


def test_different_test_sets_are_not_compared_example_by_example() -> None:
    first, second = draw(4, 50, (0.7, 0.6))
    assert pooled_macro_f1_difference({1: first}, {1: second.iloc[1:]}) is None
    assert pooled_macro_f1_difference({1: first}, {2: second}) is None
    other = second.assign(label="dog")
    assert pooled_macro_f1_difference({1: first}, {1: other}) is None


def noisy(middle: float, spread: float, seeds: int = 6) -> dict[int, float]:
    generator = np.random.default_rng(int(1000 * middle))
    return {seed: middle + float(generator.normal(0, spread)) for seed in range(seeds)}


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(0.1, 0.9), min_size=2, max_size=5, unique=True), st.booleans())
def test_the_order_and_the_two_families_of_comparisons(middles: list[float], lower: bool) -> None:
    scores = {f"setting {number}": noisy(middle, 0.05) for number, middle in enumerate(middles)}
    rows = rank(scores, lower=lower)
    means = [row.mean for row in rows]
    assert means == sorted(means, reverse=not lower)
    assert rows[0].to_best is None
    assert [row.label for row in rows if row.to_reference is None] == ["setting 0"]
    for row in rows:
        assert row.deviation == pytest.approx(np.std(list(scores[row.label].values()), ddof=1))
        if row.to_reference and row.to_best and rows[0].label == "setting 0":
            assert row.to_best.p_value >= row.to_reference.p_value - 1e-12  # corrected over more comparisons
        if row.to_best and row.to_best.over_seeds:
            assert row.to_best.over_seeds.value == pytest.approx(row.mean - rows[0].mean)


def test_verdicts_only_outside_the_noise() -> None:
    scores = {
        "reference": noisy(0.5, 0.01),
        "far above": noisy(0.8, 0.01),
        "far below": noisy(0.2, 0.01),
        "the same": noisy(0.501, 0.05),
        "one seed": {0: 0.99},
        "constant": dict.fromkeys(range(6), 0.7),
        "never built": {},
    }
    found = {row.label: row.to_reference for row in rank(scores, lower=False)}
    words = {label: judge(contrast, lower=False) for label, contrast in found.items() if contrast}
    assert words == {
        "far above": "better",
        "far below": "worse",
        "the same": "noise",
        "one seed": "noise: one seed",
        "constant": "better",  # it does not vary; its differences to the reference do
    }
    above = found["far above"]
    assert above is not None
    assert judge(above, lower=True) == "worse"
    constants = rank({"a": dict.fromkeys(range(3), 0.5), "b": dict.fromkeys(range(3), 0.6)}, lower=False)
    assert constants[0].to_reference is not None
    assert judge(constants[0].to_reference, lower=False) == "noise: the seeds changed nothing"
    with pytest.raises(HallmarkError, match="no arm has a figure"):
        rank({"a": {}}, lower=False)


def test_a_difference_that_few_examples_carry_is_noise_however_sure_the_seeds_are() -> None:
    tables = draw(5, 40, (0.62, 0.55))
    answers = {"a": dict.fromkeys(range(6), tables[0]), "b": dict.fromkeys(range(6), tables[1])}
    scores = {"a": noisy(0.5, 0.001), "b": noisy(0.4, 0.001)}
    for given_answers, word in (({}, "worse"), (answers, "noise")):
        contrast = rank(scores, lower=False, answers=given_answers)[1].to_reference
        assert contrast is not None
        assert judge(contrast, lower=False) == word


def test_equal_flops_are_within_two_per_cent_and_unknown_ones_are_not_equal() -> None:
    assert flops_are_equal([100.0, 101.9, 100.5]) is True
    assert flops_are_equal([100.0, 102.1]) is False
    assert flops_are_equal([100.0, None]) is None
    assert is_lower_better("pretrain.bits_per_byte")
    assert not is_lower_better("tasks.library.macro_f1")


def arm(value: int | str, seed: int, figures: dict[str, float], **more: Any) -> dict[str, Any]:
    known: dict[str, Any] = {"key": "abc", "stages": {"pretrain": "abc"}, "sources": {"pipeline/model": "1"}}
    known |= {"build": f"b{seed}", "predictions": {}, "error": None, "figures": figures, "seed": seed}
    return known | {"settings": {"model.depth": value}} | more


def bits(middle: float, depth: int | str, flops: float | None, **more: Any) -> list[dict[str, Any]]:
    cost = {} if flops is None else {"pretrain.training_flops": flops}
    return [
        arm(depth, seed, {"pretrain.bits_per_byte": bits, **cost}, **more) for seed, bits in noisy(middle, 0.01).items()
    ]


def cells(ranked: RankedSweep, column: str) -> dict[str, str]:
    table = ranked.tables[0]
    return {row[0]: row[table.columns.index(column)] for row in table.rows}


def test_nothing_is_called_better_at_unequal_flops_without_that_remark() -> None:
    arms = [*bits(1.9, 2, 1e12), *bits(1.6, 4, 2e12)]
    ranked = rank_sweep("depth", arms, ["pretrain.bits_per_byte"])
    assert cells(ranked, "against the reference")["depth=4"].startswith("better at 2.00 x its FLOPs; ")
    assert cells(ranked, "against the best")["depth=2"].startswith("worse at 0.50 x its FLOPs; ")
    assert cells(ranked, "FLOPs / reference") == {"depth=4": "2.00", "depth=2": "1.00"}
    assert "UNEQUAL training FLOPs" in ranked.tables[0].caption
    equal = rank_sweep("depth", [*bits(1.9, 2, 1e12), *bits(1.6, 4, 1.01e12)], ["pretrain.bits_per_byte"])
    assert cells(equal, "against the reference")["depth=4"].startswith("better; -0.")
    assert "FLOPs / reference" not in equal.tables[0].columns
    assert "equal training FLOPs" in equal.tables[0].caption
    unknown = rank_sweep("depth", [*bits(1.9, 2, 1e12), *bits(1.6, 4, None)], ["pretrain.bits_per_byte"])
    assert "not known for every setting" in unknown.tables[0].caption


def test_predictions_failures_and_changed_code_come_to_be_shown(tmp_path: Path) -> None:
    arms = []
    for seed in (1, 2, 3):
        for depth, table in zip((2, 4), draw(seed, 200, (0.3, 0.9)), strict=True):
            path = tmp_path / f"{depth}-{seed}.parquet"
            write_table(path, table)
            figures = {"tasks.library.macro_f1": macro_f1(table)}
            arms.append(arm(depth, seed, figures, predictions={"library": str(path)}))
    arms[0]["sources"] = {"pipeline/model": "2"}
    arms.append(arm("<b>|x", 1, {}, error="pretrain failed\nhallmark: <the> loss"))
    ranked = rank_sweep("a|b", arms, ["tasks.library.macro_f1", "pretrain.bits_per_byte"])
    assert cells(ranked, "against the reference")["depth=4"].startswith("better; +0.")
    assert ", examples +0." in cells(ranked, "against the reference")["depth=4"]
    assert "over test examples" in ranked.tables[0].caption
    assert ranked.failures == [("model.depth=<b>|x, seed 1", "pretrain failed\nhallmark: <the> loss")]
    assert ranked.remarks[0].startswith("Not all arms were built from the same pipeline/model")
    assert ranked.remarks[1] == "No arm has the figure pretrain.bits_per_byte."
    html, markdown = (path.read_text(encoding="utf-8") for path in write_ranking(tmp_path / "page", ranked))
    assert "<b>|x" not in html
    assert "&lt;b&gt;|x" in html
    assert "http" not in html  # it needs no other file
    assert "    hallmark: <the> loss" in markdown
    rows = [line for line in markdown.splitlines() if line.startswith("|")]
    assert "| setting | mean | sd | n | against the reference | against the best |" in rows
    assert any("\\<b\\>\\|x" in row for row in rows)


def test_labels_name_the_settings() -> None:
    assert label_of({}) == "as in params.yaml"
    assert label_of({"a.b": 1e-4, "c": "x", "d": None}) == "a.b=0.0001, c=x, d=null"
