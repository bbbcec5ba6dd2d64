"""Attention by AMX instructions, against its formulas in float64. Legend: see the module."""

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.model.amx.attention import AS_THEY_ARE, Recipe, attend_by_amx, can_attend
from pipeline.model.attention import attend, padding_bias, visible_bias
from pipeline.model.positions import rotary_tables, rotate

pytestmark = pytest.mark.usefixtures("amx")

ROUNDED = 2**-7  # bfloat16's rounding, of an operation's largest result or gradient: others are differences of such


class Heads(NamedTuple):
    q: Tensor
    k: Tensor
    v: Tensor
    dy: Tensor


def random_heads(rows: int, queries: int, keys: int, heads: int = 2, key_heads: int = 2, head_dim: int = 32) -> Heads:
    """In memory as a linear layer writes them."""
    torch.manual_seed(0)
    shapes = ((queries, heads), (keys, key_heads), (keys, key_heads), (queries, heads))
    return Heads(*(torch.randn(rows, *shape, head_dim).bfloat16().transpose(1, 2) for shape in shapes))


def random_recipe(places: int, head_dim: int) -> Recipe:
    cos_TK, sin_TK = rotary_tables(places, head_dim, 10_000.0)
    return Recipe(torch.rand(head_dim) + 0.5, cos_TK[None, None], sin_TK[None, None])


def make_ready(x: Tensor, weight: Tensor | None, recipe: Recipe, eps: float) -> Tensor:
    if weight is not None:
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight
    if recipe.cos is None or recipe.sin is None:
        return x
    return rotate(x, recipe.cos.double(), recipe.sin.double())


def written_out(heads: Heads, bias: Tensor | None, of_q: Recipe, of_k: Recipe) -> tuple[Tensor, ...]:
    """In float64: y, dq, dk, dv and, if there are any, the gradients of the norms' weights."""
    q, k, v = (x.double().requires_grad_() for x in heads[:3])
    norms = [None if each.weight_K is None else each.weight_K.double().requires_grad_() for each in (of_q, of_k)]
    shared = q.size(1) // k.size(1)
    ready_k = make_ready(k, norms[1], of_k, 1e-6).repeat_interleave(shared, dim=1)
    y = attend(
        make_ready(q, norms[0], of_q, 1e-6),
        ready_k,
        v.repeat_interleave(shared, dim=1),
        double(bias),
        q.size(-1) ** -0.5,
    )
    learned = [q, k, v, *(norm for norm in norms if norm is not None)]
    return y, *torch.autograd.grad(y, learned, heads.dy.double())


def double(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.double()


def by_amx(heads: Heads, bias: Tensor | None, of_q: Recipe, of_k: Recipe) -> tuple[Tensor, ...]:
    q, k, v = (x.detach().requires_grad_() for x in heads[:3])
    norms = [each.weight_K for each in (of_q, of_k) if each.weight_K is not None]
    for norm in norms:
        norm.requires_grad_()
    y = attend_by_amx(q, k, v, bias, q.size(-1) ** -0.5, of_q, of_k, 1e-6)
    return y.detach(), *torch.autograd.grad(y, [q, k, v, *norms], heads.dy)


def assert_right(heads: Heads, bias: Tensor | None, of_q: Recipe = AS_THEY_ARE, of_k: Recipe = AS_THEY_ARE) -> None:
    found, truth = by_amx(heads, bias, of_q, of_k), written_out(heads, bias, of_q, of_k)
    largest = max(root_mean_square(exact) for exact in truth)
    for ours, exact in zip(found, truth, strict=True):
        assert root_mean_square(ours.double() - exact) < ROUNDED * largest


def root_mean_square(x: Tensor) -> float:
    return float(x.detach().square().mean().sqrt())


def causal(length: int, **seen: Tensor | int | None) -> Tensor:
    places = torch.arange(length)[None]
    bias = visible_bias(places, places, causal=True, **seen)  # type: ignore[arg-type]
    assert bias is not None
    return bias


@settings(max_examples=40, deadline=None)
@given(
    queries=st.integers(1, 150), keys=st.integers(1, 150), key_heads=st.sampled_from([1, 2, 4]), rows=st.integers(1, 3)
)
def test_attention_of_any_lengths(queries: int, keys: int, key_heads: int, rows: int) -> None:
    assert_right(random_heads(rows, queries, keys, heads=4, key_heads=key_heads), None)


@pytest.mark.parametrize("head_dim", [32, 64, 96, 256])
def test_of_norms_and_rotary_positions(head_dim: int) -> None:
    heads = random_heads(2, 70, 70, head_dim=head_dim)
    assert_right(heads, causal(70), random_recipe(70, head_dim), random_recipe(70, head_dim))


def test_of_a_norm_or_rotary_positions_alone() -> None:
    normed, turned = random_recipe(70, 32)._replace(cos=None, sin=None), random_recipe(70, 32)._replace(weight_K=None)
    assert_right(random_heads(2, 70, 70), None, normed, turned)


@pytest.mark.parametrize(
    "seen",
    [
        {},
        {"window": 20},
        {"documents_BT": (torch.arange(150) >= torch.tensor([[10], [140]])).long()},
        {"prefix_BS": torch.tensor([[100], [3]])},
    ],
    ids=["earlier", "window", "documents", "prefix"],
)
def test_of_what_is_seen(seen: dict[str, Tensor | int]) -> None:
    assert_right(random_heads(2, 150, 150), causal(150, **seen))


def test_of_all_but_padding_and_of_scores_of_each_head() -> None:
    visible = torch.arange(90) < torch.tensor([[90], [35]])
    assert_right(random_heads(2, 70, 90), padding_bias(visible))
    assert_right(random_heads(2, 70, 90), torch.randn(1, 2, 70, 90))


@pytest.mark.usefixtures("own_threads")
def test_attention_has_the_same_bits_on_any_number_of_threads_and_however_far_it_is_padded() -> None:
    heads, of_q, of_k = random_heads(3, 70, 70), random_recipe(100, 32), random_recipe(100, 32)
    together = by_amx(heads, causal(70), of_q._replace(**cut(of_q, 70)), of_k._replace(**cut(of_k, 70)))
    padded = Heads(*(torch.nn.functional.pad(x, (0, 0, 0, 30)) for x in heads))
    visible = torch.arange(100)[None] < 70
    longer = by_amx(padded, causal(100, visible_BS=visible), of_q, of_k)
    for short, long in zip(together[:4], longer[:4], strict=True):
        assert torch.equal(short, long[:, :, :70])
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        again = by_amx(heads, causal(70), of_q._replace(**cut(of_q, 70)), of_k._replace(**cut(of_k, 70)))
        for one, other in zip(again, together, strict=True):
            assert torch.equal(one, other)


def cut(recipe: Recipe, places: int) -> dict[str, Tensor]:
    assert recipe.cos is not None
    assert recipe.sin is not None
    return {"cos": recipe.cos[:, :, :places], "sin": recipe.sin[:, :, :places]}


def test_what_is_not_finite_stays_so() -> None:
    """So that a training finds it and skips the step."""
    heads = random_heads(1, 40, 40)
    heads.q[0, 1, 35, 3] = math.nan
    y, dq, dk, *_ = by_amx(heads, causal(40), AS_THEY_ARE, AS_THEY_ARE)
    assert y[0, 1, 35].isnan().all()
    assert y[0, 1, :35].isfinite().all()
    assert dq[0, 1, 35].isnan().all()
    assert dk[0, 1].isnan().any()


def test_what_cannot_be_asked() -> None:
    q = torch.zeros(1, 1, 4, 32, dtype=torch.bfloat16)
    assert can_attend(q, torch.zeros(1, 1, 4, 4))
    assert not can_attend(q.float(), None)
    assert not can_attend(q[..., :16], None)
    assert not can_attend(q, torch.zeros(1, 1, 4, 4, requires_grad=True))
