"""A compiled block that asks operations by AMX."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.common.params import Model
from pipeline.model.adapters import add_adapters
from pipeline.model.attention import Attention
from pipeline.model.config import derive_config
from pipeline.model.feed_forward import FeedForward
from pipeline.model.linear import Linear
from pipeline.model.transformer import Transformer

pytestmark = pytest.mark.usefixtures("amx")

Part = Callable[..., Tensor]


def root_mean_square(x: Tensor) -> float:
    return float(x.detach().square().mean().sqrt())


def make_model(**parts: Any) -> Transformer:
    torch.manual_seed(0)
    config, _ = derive_config(Model(**parts, depth=1, hidden_size=64, num_heads=2, context_length=40, dropout=0.0), 64)
    return Transformer(config).train()


def gradients(model: Transformer, compiled: Callable[[Part], Part], lengths: tuple[int, ...] = (40,)) -> list[Tensor]:
    """Of what is read, and of all that learns in its block."""
    stack = model.decoder or model.encoder
    assert stack is not None
    block, found = stack.blocks[0], []
    part = compiled(block)
    for length in lengths:
        sights = stack._sights(torch.arange(length)[None], None, None, None, None)
        generator = torch.Generator().manual_seed(length)
        x, dy = (torch.randn(2, length, 64, generator=generator) for _ in range(2))
        with torch.autocast("cpu", torch.bfloat16):
            y = part(x.requires_grad_(), sights[stack.windows[0]])
        learned = [parameter for parameter in block.parameters() if parameter.requires_grad]
        found += torch.autograd.grad(y, [x, *learned], dy)
    return found


class Watch:
    """Compiles as it is, and notes the operations that are asked for in each graph."""

    def __init__(self, **how: Any) -> None:
        self.how, self.asked = how, list[set[str]]()

    def __call__(self, part: Part) -> Part:
        torch._dynamo.reset()
        return torch.compile(part, backend=self._note, fullgraph=True, **self.how)

    def _note(self, graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        targets = (str(node.target) for node in graph.graph.nodes)
        self.asked.append({target.split(".")[1] for target in targets if target.startswith("hallmark.")})
        return graph


def ask_amx(model: Transformer) -> None:
    for module in model.modules():
        if isinstance(module, Attention | FeedForward | Linear):
            module.by_amx = True


@pytest.mark.parametrize("preset", ["gpt2", "qwen3", "bert"])
def test_it_asks_for_them_in_one_graph(preset: str) -> None:
    """And gives what an uncompiled one gives, but for rounding."""
    model, watch = make_model(preset=preset), Watch()
    truth = gradients(model, lambda part: part)
    ask_amx(model)
    found = gradients(model, watch)
    assert watch.asked == [{"attend", "feed_forward", "linear"}]
    largest = max(root_mean_square(exact) for exact in truth)  # that of a bias of all keys is zero
    for ours, exact in zip(found, truth, strict=True):
        assert root_mean_square(ours - exact) < 0.02 * max(root_mean_square(exact), 0.1 * largest)


def test_one_graph_is_for_every_length() -> None:
    model, watch = make_model(preset="qwen3"), Watch(dynamic=True)
    ask_amx(model)
    gradients(model, watch, (40, 24, 33, 7))
    assert watch.asked == [{"attend", "feed_forward", "linear"}]


def test_what_is_frozen_or_adapted_is_left_as_it_was() -> None:
    model, watch = make_model(preset="qwen3"), Watch()
    add_adapters(model, 4, 8.0, ["q_proj", "up_proj"])
    truth = gradients(model, lambda part: part)
    ask_amx(model)
    found = gradients(model, watch)
    assert watch.asked == [{"attend"}]
    for ours, exact in zip(found, truth, strict=True):
        assert root_mean_square(ours - exact) < 0.03 * max(root_mean_square(exact), 1e-3)
