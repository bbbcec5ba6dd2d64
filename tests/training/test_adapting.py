"""What learns of a pretrained body, and how fast: nothing but what was asked for, and by default all as ever."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from pipeline.common.params import Finetune
from pipeline.model.adapters import LowRankLinear
from pipeline.model.transformer import Transformer
from pipeline.training.adapting import adapt, describe_learning, layer_rate_factors
from pipeline.training.optimizers import finetuning_optimizers, split_parameters, trapezoid
from tests.training.tiny import PRESETS, tiny_config

STEPS = 3


class Parts(nn.Module):
    """A pretrained body and a new head."""

    def __init__(self, objective: str = "causal", **changes: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = Transformer(tiny_config(objective, **changes), heads=False)
        self.head = nn.Linear(self.body.config.hidden_size, 3)


def step(parts: Parts, number: int, optimize: Callable[[int], None]) -> None:
    torch.manual_seed(number)
    ids_BT = torch.randint(5, 200, (3, 6))
    loss = cross_entropy(parts.head(parts.body.hidden_states(ids_BT).mean(dim=1)), torch.tensor([0, 1, 2]))
    loss.backward()
    optimize(number)


@pytest.mark.parametrize("objective", PRESETS)
def test_by_default_every_weight_learns_with_one_rate_for_the_body_and_one_for_the_head(objective: str) -> None:
    ours, theirs = Parts(objective), Parts(objective)
    settings, schedule = Finetune(), trapezoid(STEPS, 0.1, 0.9)
    adapt(ours.body, settings)
    optimizers = finetuning_optimizers(ours.body, ours.head, settings, schedule)
    groups: list[dict[str, Any]] = []
    for part, rate in ((theirs.body, 0.0003), (theirs.head, 0.01)):
        matrices, tables, vectors = split_parameters(part)
        groups.append({"params": matrices + tables, "lr": rate, "weight_decay": 0.01})
        groups.append({"params": vectors, "lr": rate, "weight_decay": 0.0})
    adamw = torch.optim.AdamW(groups, fused=True)
    scheduled = torch.optim.lr_scheduler.LambdaLR(adamw, schedule)

    def plain(_: int) -> None:
        adamw.step()
        adamw.zero_grad()
        scheduled.step()

    for number in range(STEPS):
        step(ours, number, optimizers.step)
        step(theirs, number, plain)
    mine, other = ours.state_dict(), theirs.state_dict()
    assert all(torch.equal(mine[name], other[name]) for name in other)
    assert [len(group["params"]) for group in optimizers.optimizers[0].param_groups] == [
        len(group["params"]) for group in groups
    ]


@pytest.mark.parametrize(("how", "learns"), [("lora", ("lora_a", "lora_b")), ("head", ())])
def test_only_what_learns_has_gradients_state_and_another_value_after_it(how: str, learns: tuple[str, ...]) -> None:
    parts = Parts()
    settings = Finetune.model_validate({"adapt": how, "lora_rank": 2})
    adapt(parts.body, settings)
    before = {name: parameter.clone() for name, parameter in parts.named_parameters()}
    optimizers = finetuning_optimizers(parts.body, parts.head, settings, trapezoid(STEPS, 0.1, 0.9))
    with_gradient: set[str] = set()

    def optimize(number: int) -> None:
        with_gradient.update(name for name, parameter in parts.named_parameters() if parameter.grad is not None)
        optimizers.step(number)

    for number in range(STEPS):
        step(parts, number, optimize)
    expected = {name for name in before if name.startswith("head.") or name.endswith(learns or "nothing")}
    assert with_gradient == expected
    assert {
        name for name, parameter in parts.named_parameters() if not torch.equal(before[name], parameter)
    } == expected
    state_values = sum(value.numel() for value in optimizers.state_tensors().values() if value.ndim)
    assert state_values == 2 * sum(before[name].numel() for name in expected)
    assert describe_learning(parts).startswith(f"{state_values // 2:,} of ")


def test_adapters_and_head_have_rates_of_their_own() -> None:
    parts = Parts()
    settings = Finetune(adapt="lora", lora_learning_rate=0.5, head_learning_rate=0.25)
    adapt(parts.body, settings)
    optimizers = finetuning_optimizers(parts.body, parts.head, settings, lambda _: 1.0)
    rates = {group["lr"] for group in optimizers.optimizers[0].param_groups if group["params"]}
    assert rates == {0.5, 0.25}


def names_by_factor(body: Transformer, decay: float) -> dict[float, set[str]]:
    factors = layer_rate_factors(body, decay)
    found: dict[float, set[str]] = {}
    for name, parameter in body.named_parameters():
        found.setdefault(factors[parameter], set()).add(".".join(name.split(".")[:3]))
    return found


def test_the_rate_falls_from_block_to_block_and_the_embeddings_are_lowest() -> None:
    body = Transformer(tiny_config("mlm", depth=3, positions="relative"), heads=False)
    assert names_by_factor(body, 0.5) == {
        1.0: {"encoder.blocks.2", "encoder.norm.weight", "encoder.norm.bias"} & set_of(body),
        0.5: {"encoder.blocks.1"},
        0.25: {"encoder.blocks.0"},
        0.125: {name for name in set_of(body) if not name.startswith(("encoder.blocks", "encoder.norm"))},
    }


@pytest.mark.parametrize("tied", [True, False])
def test_a_head_of_tokens_is_at_the_top_unless_it_is_the_embedding(tied: bool) -> None:
    body = Transformer(tiny_config("causal", tied_embeddings=tied))
    top, lowest = names_by_factor(body, 0.5)[1.0], names_by_factor(body, 0.5)[0.25]
    assert ("lm_head.weight" in top) is not tied
    assert lowest == {"embedding.tokens.weight"}


def set_of(body: Transformer) -> set[str]:
    return {".".join(name.split(".")[:3]) for name, _ in body.named_parameters()}


def test_an_encoder_lies_below_its_decoder() -> None:
    body = Transformer(tiny_config("span-corruption"))
    factors = {
        name: factor
        for factor, names in names_by_factor(body, 0.5).items()
        for name in names
        if ".blocks." in name or name == "embedding.tokens.weight"
    }
    assert factors == {
        "decoder.blocks.1": 1.0,
        "decoder.blocks.0": 0.5,
        "encoder.blocks.1": 0.25,
        "encoder.blocks.0": 0.125,
        "embedding.tokens.weight": 0.0625,
    }


def test_every_parameter_learns_at_the_rate_of_its_layer() -> None:
    parts = Parts(depth=3)
    settings = Finetune(layer_rate_decay=0.5, learning_rate=0.1)
    optimizers = finetuning_optimizers(parts.body, parts.head, settings, lambda _: 1.0)
    groups = optimizers.optimizers[0].param_groups
    rates = {parameter: group["lr"] for group in groups for parameter in group["params"]}
    assert rates.keys() == set(parts.parameters())
    assert sum(len(group["params"]) for group in groups) == len(rates)
    named = dict(parts.body.named_parameters())
    assert rates[named["decoder.blocks.2.attention.q_proj.weight"]] == 0.1
    assert rates[named["decoder.blocks.0.attention_norm.weight"]] == 0.025
    assert rates[named["embedding.tokens.weight"]] == 0.0125
    assert {rates[parameter] for parameter in parts.head.parameters()} == {0.01}


def test_layers_with_adapters_keep_their_place() -> None:
    parts = Parts(depth=2)
    settings = Finetune(adapt="lora", layer_rate_decay=0.5)
    adapt(parts.body, settings)
    factors = layer_rate_factors(parts.body, 0.5)
    found = {
        name.split(".")[2]: factors[module.lora_a]
        for name, module in parts.body.named_modules()
        if isinstance(module, LowRankLinear)
    }
    assert found == {"0": 0.5, "1": 1.0}
