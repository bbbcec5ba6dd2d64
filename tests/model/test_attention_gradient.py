"""Attention with its gradient written out, against autograd's through the formula. Legend: see the module."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from pipeline.common.params import Model
from pipeline.model.attention import attend, padding_bias, visible_bias
from pipeline.model.attention_gradient import attend_with_gradient
from pipeline.model.config import derive_config
from pipeline.model.transformer import Transformer

Answer = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], Tensor]
by_autograd: Answer = attend
with_gradient: Answer = attend_with_gradient


class Inputs(NamedTuple):
    q: Tensor
    k: Tensor
    v: Tensor
    dy: Tensor


def random_inputs(queries: int, keys: int) -> Inputs:
    torch.manual_seed(0)
    q, dy = torch.randn(2, 2, 3, queries, 8, dtype=torch.float64)
    k, v = torch.randn(2, 2, 3, keys, 8, dtype=torch.float64)
    return Inputs(q, k, v, dy)


def causal_bias(length: int) -> Tensor:
    places = torch.arange(length)[None]
    bias = visible_bias(places, places, causal=True)
    assert bias is not None
    return bias.double()


def answer_and_gradients(attention: Answer, inputs: Inputs, bias: Tensor | None) -> tuple[Tensor, ...]:
    """y, dq, dk, dv, and dbias if it asks for one."""
    q, k, v = (each.detach().requires_grad_() for each in inputs[:3])
    answer = attention(q, k, v, bias, 0.4)
    wanted = [q, k, v, bias] if bias is not None and bias.requires_grad else [q, k, v]
    return answer, *torch.autograd.grad(answer, wanted, inputs.dy)


def assert_the_same(attention: Answer, inputs: Inputs, bias: Tensor | None) -> None:
    expected = answer_and_gradients(by_autograd, inputs, bias)
    torch.testing.assert_close(answer_and_gradients(attention, inputs, bias), expected)


@pytest.mark.parametrize("length", [1, 7, 32])
def test_of_earlier_positions(length: int) -> None:
    assert_the_same(with_gradient, random_inputs(length, length), causal_bias(length))


def test_of_earlier_positions_of_the_same_document() -> None:
    """Of several documents in a row, which differ from row to row."""
    length = 32
    documents = (torch.arange(length) >= torch.tensor([[10], [length - 9]])).long()
    places = torch.arange(length)[None]
    bias = visible_bias(places, places, causal=True, documents_BT=documents)
    assert bias is not None
    assert_the_same(with_gradient, random_inputs(length, length), bias.double())


def test_of_all_positions() -> None:
    assert_the_same(with_gradient, random_inputs(9, 9), None)


@pytest.mark.parametrize("queries", [9, 5])
def test_of_all_but_padding(queries: int) -> None:
    visible, places = torch.arange(9) < torch.tensor([[9], [4]]), torch.arange(9)[None]
    own = visible_bias(places, places, causal=False, visible_BS=visible)
    assert_the_same(with_gradient, random_inputs(queries, 9), own if queries == 9 else padding_bias(visible))


@pytest.mark.parametrize("shape", [(2, 3, 6, 6), (1, 3, 6, 6)])
def test_a_learned_bias_gets_its_gradient(shape: tuple[int, ...]) -> None:
    assert_the_same(with_gradient, random_inputs(6, 6), torch.randn(shape, dtype=torch.float64, requires_grad=True))


def test_learned_scores_of_earlier_positions_get_theirs() -> None:
    learned = torch.randn(1, 3, 32, 32, dtype=torch.float64, requires_grad=True)
    assert_the_same(with_gradient, random_inputs(32, 32), learned + causal_bias(32))


def test_where_heads_lie_apart() -> None:
    """As they come from the projections, token by token."""

    def apart(x: Tensor) -> Tensor:
        return x.transpose(1, 2).contiguous().transpose(1, 2)

    assert_the_same(with_gradient, Inputs(*(apart(each) for each in random_inputs(7, 9))), None)


def test_in_bfloat16_it_is_about_as_exact_as_autograd() -> None:
    length = 256
    inputs, bias = random_inputs(length, length), causal_bias(length)
    exact = answer_and_gradients(by_autograd, inputs, bias)
    low, wide = Inputs(*(each.bfloat16() for each in inputs)), bias.float()
    ours, autograds = (answer_and_gradients(way, low, wide) for way in (with_gradient, by_autograd))
    for name, truth, found, plain in zip(("y", "dq", "dk", "dv"), exact, ours, autograds, strict=True):
        error, allowed = ((each.double() - truth).norm() / truth.norm() for each in (found, plain))
        assert error < 1.2 * allowed, f"{name}: {error:.2e}, by autograd {allowed:.2e}"


@pytest.mark.parametrize(("preset", "num_kv_heads"), [("qwen3", 1), ("bert", None), ("t5", None)])
def test_a_network_that_is_compiled_learns_by_it(
    preset: str, num_kv_heads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Causal with shared keys, with padding, and with learned scores of positions and a memory."""
    length = 32
    shape = {"depth": 1, "hidden_size": 16, "num_heads": 2, "num_kv_heads": num_kv_heads, "context_length": length}
    config, _ = derive_config(Model.model_validate(shape | {"preset": preset}), 40)
    torch.manual_seed(0)
    model = Transformer(config).double()
    ids = torch.randint(40, (2, length))
    padding = None if preset == "qwen3" else torch.arange(length) < torch.tensor([[length], [20]])
    targets = ids[:, :12] if preset == "t5" else None

    def gradients() -> dict[str, Tensor | None]:
        model.zero_grad()
        model(ids, padding, targets).logsumexp(dim=-1).sum().backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    expected = gradients()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    monkeypatch.setattr("pipeline.model.attention.attend", None)  # nobody calls it now
    torch.testing.assert_close(gradients(), expected)


def test_a_network_that_is_compiled_to_answer_does_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    config, _ = derive_config(Model(depth=1, hidden_size=16, num_heads=2, context_length=8), 40)
    model, ids = Transformer(config).eval(), torch.randint(40, (2, 8))
    with torch.no_grad():
        expected = model(ids)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        monkeypatch.setattr("pipeline.model.attention.attend_with_gradient", None)
        assert torch.equal(model(ids), expected)
