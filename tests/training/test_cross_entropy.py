"""The cross-entropy made part by part, against torch's of all logits."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import cross_entropy, linear

from pipeline.model.norms import widen
from pipeline.training.cross_entropy import part_gradients, summed_nats
from pipeline.training.masking import NO_TARGET

Loss = Callable[[Tensor, Tensor, Tensor | None, Tensor], Tensor]
TARGETS, WIDTH, VOCABULARY = 37, 16, 50


@dataclass(frozen=True)
class Head:
    x: Tensor
    weight: Tensor
    bias: Tensor | None
    labels: Tensor

    def times(self, factor: float) -> "Head":
        bias = None if self.bias is None else self.bias * factor
        return Head(self.x * factor, self.weight * factor, bias, self.labels)

    def float(self) -> "Head":
        return Head(self.x.float(), self.weight.float(), None if self.bias is None else self.bias.float(), self.labels)


def make_head(targets: int = TARGETS, *, bias: bool = True) -> Head:
    """In float64; a third of the labels are no target."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    labels = torch.randint(0, VOCABULARY, (targets,), generator=generator)
    labels[torch.rand(targets, generator=generator) < 1 / 3] = NO_TARGET
    return Head(normal(targets, WIDTH), normal(VOCABULARY, WIDTH), normal(VOCABULARY) if bias else None, labels)


def torchs(x: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    return cross_entropy(widen(linear(x, weight, bias)), labels, ignore_index=NO_TARGET, reduction="sum")


def in_parts_of(size: int) -> Loss:
    return lambda x, weight, bias, labels: summed_nats(x, weight, bias, labels, size)


def results(loss: Loss, head: Head, scale: float = 1.0) -> list[Tensor]:
    """Loss and gradients."""
    x, weight = head.x.clone().requires_grad_(), head.weight.clone().requires_grad_()
    bias = None if head.bias is None else head.bias.clone().requires_grad_()
    nats = loss(x, weight, bias, head.labels)
    (nats * scale).backward()
    gradients = [each.grad for each in (x, weight, bias) if each is not None]
    return [nats.detach(), *(gradient for gradient in gradients if gradient is not None)]


@settings(deadline=None, max_examples=25)
@given(targets=st.integers(1, TARGETS), size=st.integers(1, 2 * TARGETS), bias=st.booleans())
def test_loss_and_gradients_in_parts_are_torchs_of_all(targets: int, size: int, bias: bool) -> None:
    head = make_head(targets, bias=bias)
    found, expected = results(in_parts_of(size), head, scale=0.3), results(torchs, head, scale=0.3)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-10)


def test_in_bfloat16_it_is_nearer_to_the_truth_than_torch() -> None:
    head = make_head(512)
    truth = results(torchs, head)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, torchs_own = results(summed_nats, head.float()), results(torchs, head.float())
    assert [each.dtype for each in ours] == [torch.float32] * 4

    def errors(found: list[Tensor]) -> list[float]:
        return [float((each - true).norm() / true.norm()) for each, true in zip(found, truth, strict=True)]

    assert max(errors(ours)) < 6e-3
    assert sum(errors(ours)) < sum(errors(torchs_own))


def test_labels_that_are_no_targets_cost_nothing() -> None:
    head = replace(make_head(), labels=torch.full((TARGETS,), NO_TARGET))
    assert not any(result.any() for result in results(summed_nats, head))


def test_large_logits_stay_finite() -> None:
    head = make_head().times(100)
    torch.testing.assert_close(results(summed_nats, head), results(torchs, head))


def test_no_logits_are_kept_and_no_more_than_a_part_are_made() -> None:
    head = make_head()
    kept: list[torch.Size] = []
    made: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.shape)
        return tensor

    def part(
        x: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, dweight: Tensor, dbias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        made.append(len(x))
        return part_gradients(x, weight, bias, labels, dweight, dbias)

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        summed_nats(head.x.requires_grad_(), head.weight, head.bias, head.labels, 8, part)
    assert made == [8, 8, 8, 8, 5]
    assert set(kept) == {head.x.shape, head.weight.shape, (VOCABULARY,)}


@pytest.mark.usefixtures("own_threads")
def test_its_bits_do_not_follow_the_number_of_threads() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(0, 512, (2048,), generator=generator)
    head = Head(torch.randn(2048, 64, generator=generator), torch.randn(512, 64, generator=generator), None, labels)
    found = []
    for count in (1, 2):
        torch.set_num_threads(count)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found.append(results(in_parts_of(700), head))
    assert all(map(torch.equal, *found))
