"""A ladder as a sweep: checked before anything is built, fitted from the arms' records, and turned into settings."""

from pathlib import Path
from typing import Any

import pytest

from flows.scaling import advise, fit_records, parse_count, plan_ladder, vocabulary
from pipeline.common.errors import HallmarkError
from pipeline.common.params import Params, render
from pipeline.evaluation.scaling import ScalingLaw

LAW = ScalingLaw(2.0, 60.0, 900.0, 0.30, 0.45)
SIZES, TOKENS = (1_000_000, 3_000_000, 10_000_000), (10**7, 5 * 10**7, 2 * 10**8)


def test_numbers_of_tokens_are_read_with_their_units() -> None:
    texts = ["400k", "1.6M", "2G", "2B", "4096", "1_000"]
    assert [parse_count(text, "--tokens") for text in texts] == [400_000, 1_600_000, 2 * 10**9, 2 * 10**9, 4096, 1000]
    with pytest.raises(HallmarkError, match="'4 t' is no number of tokens"):
        parse_count("4 t", "--tokens")


def test_a_ladder_is_a_sweep_of_depths_and_steps(ladder_project: Path) -> None:
    plan = plan_ladder([2, 1, 3], [8192, 16_384, 40_000], [1, 2], "small", 2, ladder_project)
    assert plan.targets == ("pretrain",)
    assert plan.metrics == ("pretrain.validation_loss",)
    assert plan.parallel == 2
    assert [(arm.settings["model.depth"], arm.settings["pretrain.steps"], arm.seed) for arm in plan.arms] == [
        (depth, steps, seed) for depth in (2, 1, 3) for steps in (2, 4, 9) for seed in (1, 2)
    ]


def test_a_ladder_that_fits_nothing_is_refused_before_it_is_built(ladder_project: Path) -> None:
    values = Params().model_dump(by_alias=True)
    values["model"]["hidden_size"] = 64
    (ladder_project / "params.yaml").write_text(render(Params.model_validate(values)))
    with pytest.raises(HallmarkError) as caught:
        plan_ladder([2, 2], [100, 8192], [1], "small", 1, ladder_project)
    for problem in (
        "model.hidden_size is set",
        "100 tokens are no batch of 4096",
        "2 different (size, tokens) are too few",
        "1 different sizes: at least 2",
        "next: python -m flows.scaling --depths",
    ):
        assert problem in str(caught.value)
    (ladder_project / "params.yaml").write_text(render(Params()))
    with pytest.raises(HallmarkError, match=r"model.depth: Input should be a valid integer"):
        plan_ladder(["x", 2, 3], [8192, 16_384], [1], "small", 1, ladder_project)  # type: ignore[list-item]


@pytest.fixture
def ladder_project(tmp_path: Path) -> Path:
    """The real graph and its settings, with nothing built."""
    (tmp_path / "dvc.yaml").write_text(Path("dvc.yaml").read_text(encoding="utf-8"))
    (tmp_path / "params.yaml").write_text(render(Params()))
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    analytics = false\n    no_scm = true\n")
    return tmp_path


def record(size: int, tokens: int, error: str | None = None) -> dict[str, Any]:
    figures = {
        "pretrain.training_flops": 6.0 * size * tokens,
        "pretrain.tokens": float(tokens),
        "pretrain.validation_loss": LAW.loss(size, tokens),
        "tokenizer.vocab_size": 4096.0,
    }
    settings = {"model.depth": size, "pretrain.steps": tokens}
    return {"settings": settings, "seed": 1, "error": error, "figures": {} if error else figures}


def test_arms_become_runs_and_the_optimum_becomes_settings() -> None:
    records = [record(size, tokens) for size in SIZES for tokens in TOKENS]
    failed = record(1, 1, "stage pretrain failed")
    found = fit_records([failed, *records], samples=5)
    assert found.flops == pytest.approx(10 * 6 * SIZES[-1] * TOKENS[-1])
    assert found.law.beta == pytest.approx(LAW.beta, rel=1e-3)
    assert vocabulary([failed, *records]) == 4096
    told = advise(Params(), 4096, found)
    depth = int(told.partition("model.depth: ")[2].partition(" ")[0])
    steps = int(told.partition("pretrain.steps: ")[2].partition(" ")[0])
    assert steps * 4096 * depth > 0
    size = found.figures["size"]["value"]
    near = float(told.partition("N = ")[2].partition("M")[0]) * 1e6
    assert near == pytest.approx(size, rel=0.5)
    assert 6 * near * steps * 4096 == pytest.approx(found.flops, rel=0.01)
    encoder = Params.model_validate({"model": {"preset": "bert"}})
    assert "training_flops_per_token" in advise(encoder, 4096, found)
    with pytest.raises(HallmarkError, match="no rung was built\nstage pretrain failed"):
        fit_records([failed])
