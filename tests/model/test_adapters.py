"""Low-rank adapters: they begin as nothing, say the same once they are merged, and know the weights they belong to."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.common.errors import HallmarkError
from pipeline.model.adapters import (
    LowRankLinear,
    add_adapters,
    freeze,
    load_adapters,
    merge_adapters,
    save_adapters,
)
from pipeline.model.transformer import Transformer
from tests.training.tiny import PRESETS, tiny_config

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def make_model(objective: str, **changes: Any) -> Transformer:
    torch.manual_seed(0)
    return Transformer(tiny_config(objective, **changes)).double().eval()


def outputs(model: Transformer) -> Tensor:
    ids_BT = torch.arange(14).reshape(2, 7) + 5
    return model(ids_BT, None, ids_BT[:, :4]) if model.config.family == "encoder-decoder" else model(ids_BT)


def learn_something(model: nn.Module) -> None:
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, LowRankLinear):
            nn.init.normal_(module.lora_b)


@pytest.mark.parametrize("objective", PRESETS)
@torch.no_grad()
def test_adapters_begin_as_the_base_and_merge_into_what_they_computed(objective: str) -> None:
    model = make_model(objective)
    names, plain = list(dict(model.named_parameters())), outputs(model)
    add_adapters(model, 3, 6.0, ALL)
    assert torch.equal(outputs(model), plain)
    learn_something(model)
    apart = outputs(model)
    assert (apart - plain).abs().max() > 0.1
    merge_adapters(model)
    assert list(dict(model.named_parameters())) == names
    torch.testing.assert_close(outputs(model), apart, atol=1e-11, rtol=1e-11)


def test_the_product_is_that_of_the_paper() -> None:
    torch.manual_seed(0)
    layer = LowRankLinear(nn.Linear(5, 4).double(), 2, 6.0)
    nn.init.normal_(layer.lora_b)
    x = torch.randn(3, 5, dtype=torch.float64)
    weight = layer.linear.weight + 6.0 / 2 * layer.lora_b @ layer.lora_a
    torch.testing.assert_close(layer(x), x @ weight.T + layer.linear.bias)


def test_only_the_named_matrices_are_adapted_and_nothing_else_learns() -> None:
    model = make_model("span-corruption")
    add_adapters(model, 2, 2.0, ["q_proj", "v_proj"])
    outputs(model).sum().backward()
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    attentions = ["encoder.blocks.{}.attention", "decoder.blocks.{}.attention", "decoder.blocks.{}.cross_attention"]
    assert learning == {
        f"{attention.format(layer)}.{target}.{part}"
        for attention in attentions
        for layer in range(2)
        for target in ("q_proj", "v_proj")
        for part in ("lora_a", "lora_b")
    }
    assert {name for name, parameter in model.named_parameters() if parameter.grad is not None} == learning


def test_a_network_without_any_of_the_matrices_lists_those_it_has() -> None:
    with pytest.raises(HallmarkError, match=r"lora_targets: .* named gate_proj; allowed: q_proj, .*, down_proj"):
        add_adapters(make_model("mlm"), 2, 2.0, ["gate_proj"])


@pytest.mark.parametrize("objective", ["mlm", "span-corruption"])
def test_a_frozen_body_has_no_gradients_and_no_noise(objective: str) -> None:
    model = make_model(objective)
    noisy = Transformer(replace(model.config, dropout=0.5, attention_dropout=0.5)).double()
    noisy.load_state_dict(model.state_dict())
    freeze(noisy)
    found = outputs(noisy.train())
    assert torch.equal(found, outputs(model))
    assert not found.requires_grad


def test_a_file_of_adapters_gives_the_same_network_again(tmp_path: Path) -> None:
    base = make_model("causal")
    adapted = copy.deepcopy(base)
    add_adapters(adapted, 3, 6.0, ALL)
    learn_something(adapted)
    paths = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    for path in paths:
        save_adapters(path, adapted, "1" * 64, 3, 6.0, ALL)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert all(name.rpartition(".")[2] in ("lora_a", "lora_b") for name in load_file(paths[0]))
    again = copy.deepcopy(base)
    load_adapters(paths[0], again, again, "1" * 64)
    assert torch.equal(outputs(again), outputs(adapted))


def test_adapters_of_other_weights_are_refused(tmp_path: Path) -> None:
    model = make_model("causal")
    add_adapters(model, 3, 6.0, ALL)
    save_adapters(tmp_path / "a.safetensors", model, "1" * 64, 3, 6.0, ALL)
    with pytest.raises(HallmarkError, match="belong to the weights 111111111111, not to 222222222222"):
        load_adapters(tmp_path / "a.safetensors", model, model, "2" * 64)
