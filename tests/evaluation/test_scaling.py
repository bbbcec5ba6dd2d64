"""The scaling law: constants that are known come back, intervals hold the truth, and a poor ladder is called one."""

import math
from dataclasses import replace
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy.optimize import minimize_scalar

from pipeline.common.errors import HallmarkError
from pipeline.evaluation.report.charts import Fit, fit_chart, log_ticks, quantity
from pipeline.evaluation.scaling import Run, Scaling, ScalingLaw, fit_scaling
from pipeline.evaluation.scaling_page import print_scaling, verdict, write_scaling

CHINCHILLA = ScalingLaw(1.69, 406.4, 410.7, 0.34, 0.28)  # Hoffmann et al. 2022, eq. 10
SMALL = ScalingLaw(2.1, 60.0, 900.0, 0.30, 0.45)
SIZES, TOKENS = (1e6, 3e6, 1e7), (1e7, 5e7, 2e8)
FLOPS = 3e16


def ladder(law: ScalingLaw, noise: float = 0.0, seed: int = 0, seeds: int = 1) -> list[Run]:
    generator = np.random.default_rng(seed)
    return [
        Run(f"{size:g} {tokens:g} {number}", size, tokens, law.loss(size, tokens) * math.exp(noise * draw))
        for size in SIZES
        for tokens in TOKENS
        for number, draw in enumerate(generator.standard_normal(seeds))
    ]


@pytest.mark.parametrize("law", [CHINCHILLA, SMALL])
def test_known_constants_are_recovered(law: ScalingLaw) -> None:
    found = fit_scaling(ladder(law), FLOPS, samples=2)
    for name in ("irreducible", "a", "b", "alpha", "beta"):
        assert getattr(found.law, name) == pytest.approx(getattr(law, name), rel=1e-3)
    assert found.figures["size"]["value"] == pytest.approx(law.optimum(FLOPS)[0], rel=1e-3)
    assert found.error < 1e-6


@settings(deadline=None, max_examples=30)
@given(
    irreducible=st.floats(0.5, 3),
    a=st.floats(10, 1000),
    b=st.floats(10, 1000),
    alpha=st.floats(0.2, 0.8),
    beta=st.floats(0.2, 0.8),
    flops=st.floats(1e12, 1e22),
)
def test_the_optimum_is_the_lowest_loss_of_the_budget(
    irreducible: float, a: float, b: float, alpha: float, beta: float, flops: float
) -> None:
    law = ScalingLaw(irreducible, a, b, alpha, beta)
    size, tokens = law.optimum(flops)
    assert 6 * size * tokens == pytest.approx(flops)
    slow = minimize_scalar(lambda log: law.loss(math.exp(log), flops / 6 / math.exp(log)), bracket=(10, 20))
    assert law.loss(size, tokens) <= slow.fun + 1e-9


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    truth = {"size": SMALL.optimum(FLOPS)[0], "loss": SMALL.loss(*SMALL.optimum(FLOPS)), "beta": SMALL.beta}
    held = dict.fromkeys(truth, 0)
    for seed in range(8):
        found = fit_scaling(ladder(SMALL, 0.002, seed, seeds=2), FLOPS, samples=30, seed=seed)
        for name, value in truth.items():
            held[name] += found.figures[name]["low"] <= value <= found.figures[name]["high"]
    assert min(held.values()) >= 5, held  # of 8 at 90 %: fewer has a probability of 0.5 %


def test_the_same_runs_give_the_same_figures() -> None:
    runs = ladder(SMALL, 0.002)
    first, second = (fit_scaling(runs, FLOPS, samples=5) for _ in range(2))
    assert first == second
    assert fit_scaling(runs, FLOPS, samples=5, seed=2).figures != first.figures


def test_a_ladder_that_fixes_nothing_is_refused_with_all_that_is_wrong() -> None:
    runs = [
        replace(run, size=1e6, loss=loss) for run, loss in zip(ladder(SMALL)[:3], (3.0, float("nan"), 0), strict=True)
    ]
    with pytest.raises(HallmarkError) as caught:
        fit_scaling(runs, 0.0)
    for problem in (
        "loss nan: all are above 0",
        "loss 0: all are above 0",
        "the budget is 0.0 FLOPs: it is above 0",
        "3 different (size, tokens) are too few for five constants: at least 6",
        "1 different sizes: at least 2, better 3",
        "next: give more depths or token counts",
    ):
        assert problem in str(caught.value)


def remarks(runs: list[Run], flops: float = FLOPS) -> str:
    return "\n".join(fit_scaling(runs, flops, samples=10).remarks)


def test_a_poor_ladder_is_called_one() -> None:
    assert remarks(ladder(SMALL)) == ""
    short = [replace(run, tokens=1e8 * (1 + place % 3)) for place, run in enumerate(ladder(SMALL))]
    assert "its token counts span a factor of 3.0, less than 4" in remarks(short)
    assert "too small: 2 sizes" in remarks([run for run in ladder(SMALL) if run.size < 1e7])
    assert "times the largest run" in remarks(ladder(SMALL), 1e20)
    assert "too wide to choose by" in remarks(ladder(SMALL, 0.05))
    flat = [replace(run, loss=3.0 + 1e6 / run.tokens) for run in ladder(SMALL)]
    assert "The fit gave no" in remarks(flat) or "too wide" in remarks(flat)


@pytest.fixture(scope="module")
def poor() -> Scaling:
    return fit_scaling(ladder(SMALL, 0.05), FLOPS, samples=10)


def test_the_pages_need_no_other_file_and_say_what_is_printed(poor: Scaling, tmp_path: Path) -> None:
    advice, failure = "Nearest on the dial: model.depth: 5", ("depth <9>", "it is *broken*")
    pages = write_scaling(tmp_path, "a <b>", poor, advice, [failure])
    html, markdown = (page.read_text(encoding="utf-8") for page in pages[:2])
    assert "Do not choose by it" in verdict(poor)
    for text in (advice, "Do not choose by it", "too wide to choose by"):
        assert text in html
        assert text in markdown
    assert "a &lt;b&gt;" in html
    assert "depth &lt;9&gt;" in html
    assert html.count("<svg") == 2
    assert "<script" not in html
    assert all(name.name in markdown for name in pages[2:])
    for picture in pages[2:]:
        ElementTree.fromstring(picture.read_text(encoding="utf-8"))
    text = StringIO()
    print_scaling(poor, advice, Console(file=text, width=200))
    assert "Do not choose by it" in text.getvalue()
    assert text.getvalue().count("1e+06") == 3
    again = write_scaling(tmp_path / "again", "a <b>", poor, advice, [failure])
    assert [page.read_bytes() for page in again] == [page.read_bytes() for page in pages]


def test_a_logarithmic_axis() -> None:
    assert log_ticks(900, 60_000) == [1000, 2000, 5000, 10_000, 20_000, 50_000]
    assert log_ticks(1, 1e9) == [10.0**power for power in range(10)]
    assert log_ticks(3, 4) == [3, 4]
    assert [quantity(value) for value in (0.5, 999, 1000, 12_345, 999_999, 3.4e9, 2e12, 5e15)] == [
        "0.5", "999", "1k", "12.3k", "1M", "3.4G", "2T", "5e+15"
    ]  # fmt: skip
    picture = fit_chart("t", "x", "y", [Fit("one", [(1, 2.0), (100, 1.0)], [(10, 1.5)])])
    assert picture.count("<circle") == 1
