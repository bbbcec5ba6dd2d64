"""The softmax of attention, against torch's."""

import pytest
import torch
from torch import Tensor

from pipeline.model.softmax import STEADY_MULTIPLE, steady_softmax

KEYS = [1, 7, STEADY_MULTIPLE, 24, 40, 250]


def gradient(scores: Tensor, dweights: Tensor) -> Tensor:
    asked = scores.detach().requires_grad_()
    return torch.autograd.grad(steady_softmax(asked), asked, dweights)[0]


@pytest.mark.parametrize("keys", KEYS)
def test_it_is_torchs(keys: int) -> None:
    scores, dweights = torch.randn(2, 3, 4, keys, dtype=torch.float64)
    weights = scores.softmax(dim=-1)
    expected = torch.ops.aten._softmax_backward_data(dweights, weights, -1, torch.float64)
    torch.testing.assert_close(gradient(scores, dweights), expected)
    assert torch.equal(steady_softmax(scores.requires_grad_()), weights)


@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.usefixtures("own_threads")
def test_its_gradient_has_the_same_bits_on_any_number_of_threads(keys: int) -> None:
    """torch's own has not, for 7, 24, 40 and 250 keys."""
    torch.manual_seed(0)
    scores, dweights = torch.randn(2, 64, 40, keys)
    found = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        found.append(gradient(scores, dweights))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_it_can_be_differentiated_twice() -> None:
    scores = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(steady_softmax, (scores,))
