"""Optimizers against torch's own, and the schedule."""

from dataclasses import replace
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common.params import Finetune, Pretrain
from pipeline.model.transformer import Transformer
from pipeline.training.optimizers import (
    Muon,
    cosine,
    finetuning_optimizers,
    make_schedule,
    orthogonalise,
    pretraining_optimizers,
    split_parameters,
    trapezoid,
)
from tests.model.test_parts import TINY


def test_batched_muon_follows_torchs_muon() -> None:
    torch.manual_seed(0)
    shapes = [(8, 8), (8, 8), (6, 20), (20, 6), (20, 6)]
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(parameter.detach().clone()) for parameter in ours]
    batched = Muon(ours, lr=0.02, weight_decay=0.1)
    single = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, momentum=0.95, adjust_lr_fn="original")
    for _ in range(3):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn_like(mine)
            other.grad = mine.grad.clone()
        batched.step()
        single.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=2e-3, rtol=0)  # both orthogonalise in bfloat16


def test_orthogonalised_singular_values_are_near_one() -> None:
    torch.manual_seed(0)
    for shape in [(4, 16, 16), (2, 24, 10), (2, 10, 24)]:
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)).float())
        assert values.max() < 1.3
        assert values.median() > 0.6


def test_muon_takes_the_matrices_of_a_body_that_learns_a_task_whole() -> None:
    body, head = Transformer(TINY), torch.nn.Linear(8, 3)
    settings = Finetune(optimizer="muon", layer_rate_decay=0.5, muon_learning_rate=0.04)
    muon, adamw = finetuning_optimizers(body, head, settings, lambda _: 1.0).optimizers
    owned = [[id(p) for group in each.param_groups for p in group["params"]] for each in (muon, adamw)]
    assert sorted(owned[0]) == sorted(map(id, split_parameters(body)[0]))
    assert sorted(owned[0] + owned[1]) == sorted(id(p) for part in (body, head) for p in part.parameters())
    assert [group["lr"] for group in muon.param_groups][:2] == [0.04, 0.02]
    for few in (Finetune(), Finetune(optimizer="muon", adapt="lora")):
        [only] = finetuning_optimizers(body, head, few, lambda _: 1.0).optimizers
        assert isinstance(only, torch.optim.AdamW)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_every_parameter_is_in_exactly_one_group(tied: bool, name: Literal["muon", "adamw"]) -> None:
    model = Transformer(replace(TINY, tied_embeddings=tied))
    optimizers = pretraining_optimizers(model, Pretrain(optimizer=name), lambda _: 1.0)
    owned = [id(p) for o in optimizers.optimizers for group in o.param_groups for p in group["params"]]
    assert sorted(owned) == sorted(id(p) for p in model.parameters())
    matrices, tables, vectors = split_parameters(model)
    assert all(p.ndim == 2 for p in matrices + tables)
    assert all(p.ndim == 1 for p in vectors)


@given(st.integers(1, 500), st.floats(0, 1), st.floats(0, 1))
def test_schedule_stays_in_range_and_ends_low(steps: int, warmup: float, decay: float) -> None:
    factor = trapezoid(steps, warmup, decay)
    values = [factor(step) for step in range(steps)]
    assert all(0 < value <= 1 for value in values)
    assert values[-1] <= 1 / max(1, round(steps * decay))


@given(st.integers(1, 500), st.floats(0, 1))
def test_cosine_rises_to_one_and_falls_towards_zero(steps: int, warmup: float) -> None:
    factor = cosine(steps, warmup)
    values = [factor(step) for step in range(steps)]
    peak = max(1, round(steps * warmup)) - 1
    assert values[: peak + 1] == sorted(values[: peak + 1])
    assert values[peak] == 1
    assert values[peak:] == sorted(values[peak:], reverse=True)
    assert all(value > 0 for value in values)


def test_cosine_is_at_half_in_the_middle_of_its_fall() -> None:
    factor = cosine(109, 10 / 109)
    assert [factor(step) for step in (4, 9, 34, 59, 84)] == pytest.approx(
        [0.5, 1, (2 + 2**0.5) / 4, 0.5, (2 - 2**0.5) / 4]
    )
    assert factor(108) < 0.001


def test_the_schedule_is_the_one_that_is_named() -> None:
    assert make_schedule(Pretrain(schedule="cosine", warmup_share=0.0), 100)(50) < 0.6
    assert make_schedule(Pretrain(schedule="wsd", decay_share=0.2), 100)(50) == 1


def test_schedule_rises_stays_and_falls() -> None:
    factor = trapezoid(100, 0.1, 0.2)
    assert [factor(step) for step in (0, 4, 9, 50, 80, 90, 99)] == pytest.approx([0.1, 0.5, 1, 1, 1, 0.5, 0.05])
