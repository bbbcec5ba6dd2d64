"""The cross-entropy by AMX instructions, against its formulas in float64. Legend: see the module."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from pipeline.model.amx.cross_entropy import can_predict, cross_entropy_by_amx
from pipeline.training.cross_entropy import summed_nats
from pipeline.training.masking import NO_TARGET

pytestmark = pytest.mark.usefixtures("amx")

ROUNDED = 2**-7  # bfloat16's rounding of logits, powers and x


def make_head(targets: int, size: int, vocabulary: int, bias: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """x, weight, bias and labels, a seventh of which is no target."""
    torch.manual_seed(0)
    labels = torch.randint(vocabulary, (targets,)).masked_fill(torch.arange(targets) % 7 == 6, NO_TARGET)
    weight = torch.randn(vocabulary, size) * size**-0.5
    return torch.randn(targets, size).bfloat16(), weight, torch.randn(vocabulary) if bias else None, labels


def written_out(x: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> list[Tensor]:
    """Of weights as they are rounded: nats, and the gradients of x, weight and bias."""
    learned = [part.double().requires_grad_() for part in (x, weight.bfloat16(), bias) if part is not None]
    logits = linear(learned[0], learned[1], None if bias is None else learned[2])
    nats = cross_entropy(logits, labels, ignore_index=NO_TARGET, reduction="none")
    return [nats.detach(), *torch.autograd.grad(nats.sum(), learned)]


def assert_right(x: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> None:
    found = [part for part in cross_entropy_by_amx(x, weight, bias, labels) if part is not None]
    of_labels = [len(x) ** 0.5, len(x) ** 0.5, float(x.float().norm()), len(x) ** 0.5]  # what p is taken from, about
    for ours, truth, least in zip(found, written_out(x, weight, bias, labels), of_labels[: len(found)], strict=True):
        assert ours.dtype == torch.float32
        assert (ours.double() - truth).norm() <= ROUNDED * max(float(truth.norm()), least)
    assert not found[0][labels == NO_TARGET].any()
    assert not found[1][labels == NO_TARGET].any()


@settings(max_examples=30, deadline=None)
@given(targets=st.integers(1, 700), size=st.integers(1, 4), vocabulary=st.integers(1, 900), bias=st.booleans())
def test_of_any_sizes(targets: int, size: int, vocabulary: int, bias: bool) -> None:
    assert_right(*make_head(targets, 32 * size, vocabulary, bias))


def test_of_more_powers_than_are_kept_at_once() -> None:
    assert_right(*make_head(3000, 32, 20_000, bias=True))


def test_without_targets() -> None:
    x, weight, bias, labels = make_head(40, 32, 50, bias=True)
    for targets in (0, 40):
        found = cross_entropy_by_amx(x[:targets], weight, bias, torch.full_like(labels, NO_TARGET)[:targets])
        assert [len(part) for part in found if part is not None] == [targets, targets, 50, 50]
        assert not any(part.any() for part in found if part is not None)


@pytest.mark.usefixtures("own_threads")
def test_the_bits_do_not_follow_the_number_of_threads() -> None:
    head = make_head(1100, 96, 777, bias=True)
    expected = cross_entropy_by_amx(*head)
    for threads in (1, 2, 3, 16):
        torch.set_num_threads(threads)
        for one, other in zip(cross_entropy_by_amx(*head), expected, strict=True):
            assert one is not None
            assert other is not None
            assert torch.equal(one, other)


def test_what_is_not_finite_stays_so() -> None:
    """So that a training finds it and skips the step."""
    x, weight, _, labels = make_head(70, 32, 100, bias=False)
    x[40, 3] = torch.nan
    nats, dx, dweight, _ = cross_entropy_by_amx(x, weight, None, labels)
    assert nats[40].isnan()
    assert dx[40].isnan().all()
    assert dweight.isnan().any()
    assert nats[:40].isfinite().all()


def test_a_label_outside_the_vocabulary() -> None:
    x, weight, _, labels = make_head(70, 32, 100, bias=False)
    labels[8] = 100
    with pytest.raises(IndexError, match="label 100 of a vocabulary of 100"):
        cross_entropy_by_amx(x, weight, None, labels)


def test_what_cannot_be_asked() -> None:
    x, weight = torch.zeros(4, 32, dtype=torch.bfloat16), torch.zeros(7, 32)
    assert can_predict(x, weight, torch.zeros(7))
    assert not can_predict(x.float(), weight, None)
    assert not can_predict(x[:, :20], weight[:, :20].contiguous(), None)
    assert not can_predict(x, weight.double(), None)
    assert not can_predict(x, weight, torch.zeros(7).double())


@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_a_training_asks_for_it_and_gets_what_it_got(scale: float) -> None:
    def gradients(by_amx: bool) -> list[Tensor]:
        x, weight, bias, labels = make_head(300, 64, 500, bias=True)
        assert bias is not None
        states = x.float()
        for part in (states, weight, bias):
            part.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            nats = summed_nats(states, weight, bias, labels, by_amx=by_amx)
        return [nats, *torch.autograd.grad(nats * scale, (states, weight, bias))]

    for found, expected in zip(gradients(by_amx=True), gradients(by_amx=False), strict=True):
        assert found.dtype == expected.dtype
        assert not torch.equal(found, expected)  # other sums of the same
        assert (found - expected).norm() < ROUNDED * expected.norm()
