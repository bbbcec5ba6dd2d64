"""The linear layer, and the gradient of its weights in parts."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import linear

from pipeline.model.linear import MOST_SUMMED, Linear, count_parts, product, weight_gradient


@pytest.mark.parametrize("learning", ["xwb", "xw", "xb", "wb", "b", "x"])
def test_it_is_torchs_with_the_gradients_that_are_asked_for(learning: str) -> None:
    torch.manual_seed(0)
    tensors = {"x": torch.randn(2, 3, 5), "w": torch.randn(4, 5), "b": torch.randn(4)}
    inputs = [value.double().requires_grad_(name in learning) for name, value in tensors.items()]
    dy = torch.randn(2, 3, 4, dtype=torch.float64)

    def answer_and_gradients(y: Tensor) -> list[Tensor]:
        return [y, *torch.autograd.grad(y, [each for each in inputs if each.requires_grad], dy)]

    torch.testing.assert_close(answer_and_gradients(product(*inputs)), answer_and_gradients(linear(*inputs)))


def test_under_autocast_gradients_keep_the_type_of_what_they_are_of() -> None:
    x, w, b = torch.randn(6, 16), torch.randn(8, 16), torch.randn(8)
    for each in (x, w, b):
        each.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = product(x, w, b)
    assert y.dtype == torch.bfloat16
    gradients = torch.autograd.grad(y.float().square().sum(), (x, w, b))
    truth = torch.autograd.grad(linear(x, w, b).square().sum(), (x, w, b))
    for found, exact in zip(gradients, truth, strict=True):
        assert found.dtype == torch.float32
        assert (found - exact).norm() < 0.02 * exact.norm()


def test_without_a_bias() -> None:
    x, w = (torch.randn(3, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    found = torch.autograd.grad(product(x, w, None).square().sum(), (x, w))
    torch.testing.assert_close(found, torch.autograd.grad(linear(x, w).square().sum(), (x, w)))


@pytest.mark.parametrize("count", [8, 512, 8 * 137, 8 * 137 + 1, 4096])
def test_in_parts_the_gradient_of_weights_is_as_exact_as_whole(count: int) -> None:
    torch.manual_seed(0)
    dy, x = torch.randn(count, 48).bfloat16(), torch.randn(count, 32).bfloat16()
    truth = dy.double().T @ x.double()
    error, allowed = ((each.double() - truth).norm() for each in (weight_gradient(dy, x), dy.T @ x))
    assert error <= 1.1 * allowed + 1e-9


def test_no_part_is_larger_than_what_is_summed_at_once() -> None:
    for count in range(1, 5000):
        parts = count_parts(count)
        assert parts == 1 or (count % parts == 0 and count / parts <= MOST_SUMMED)
        if count <= MOST_SUMMED or count % 1024 == 0:
            assert parts == -(-count // MOST_SUMMED)
    assert count_parts(16 * 144) == 6
    assert count_parts(9 * 250) == 5
    assert count_parts(521) == 1  # a prime


@pytest.mark.usefixtures("own_threads")
@pytest.mark.parametrize("sizes", [(128, 128), (384, 128), (256, 768), (1024, 384)])
def test_its_bits_do_not_follow_the_number_of_threads(sizes: tuple[int, int]) -> None:
    """By AMX those of the whole product do, of 4,096 vectors in three of these sizes."""
    torch.manual_seed(0)
    for count in (640, 2048, 2240, 4096):
        dy, x = (torch.randn(count, size).bfloat16() for size in sizes)
        found = []
        for threads in (1, 2, 3, 4):
            torch.set_num_threads(threads)
            found.append(weight_gradient(dy, x))
        assert all(torch.equal(found[0], each) for each in found[1:]), count


@pytest.mark.usefixtures("own_threads")
def test_the_bits_of_a_layer_that_learns_uncompiled_do_not_follow_the_number_of_threads() -> None:
    """By AMX those of torch's own do on two threads, of 2,048 vectors."""
    torch.manual_seed(0)
    layer, x = Linear(128, 128), torch.randn(16, 128, 128, requires_grad=True)
    found = []
    for threads in (1, 2, 3, 4):
        torch.set_num_threads(threads)
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
        found.append([y, *torch.autograd.grad(y.float().square().sum(), [x, *layer.parameters()])])
    for each in found[1:]:
        assert all(map(torch.equal, found[0], each))
