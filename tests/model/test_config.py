"""From one dial and a preset to a whole network, and what that network has and costs."""

from dataclasses import replace

import pytest
import torch

from pipeline.common.errors import HallmarkError
from pipeline.common.params import Model
from pipeline.model.accounting import (
    body_flops_per_token,
    cache_bytes_per_token,
    count_block_parameters,
    count_parameters,
    generation_bytes,
    head_flops_per_token,
    stack_flops_per_token,
)
from pipeline.model.cache import DecoderCache
from pipeline.model.config import ModelConfig, derive_config
from pipeline.model.presets import PRESETS
from pipeline.model.transformer import Transformer
from tests.model.test_parts import TINY, preset_model, tiny_model


@pytest.mark.parametrize("preset", PRESETS)
def test_parameter_groups_sum_to_the_total(preset: str) -> None:
    model = preset_model(preset)
    groups = count_parameters(model)
    assert sum(groups.values()) == sum(p.numel() for p in model.parameters())
    assert count_block_parameters(model) < sum(groups.values())
    assert groups["embedding"] >= model.config.vocab_size * model.config.hidden_size


@pytest.mark.parametrize("preset", PRESETS)
def test_flops_formula_counts_every_matrix(preset: str) -> None:
    model = preset_model(preset)
    config = model.config
    for stack in filter(None, (model.encoder, model.decoder)):
        matrices = sum(p.numel() for name, p in stack.named_parameters() if p.ndim == 2 and "blocks." in name)
        crossed = stack is model.decoder and model.encoder is not None
        scores = 12 * len(stack.blocks) * config.hidden_size * config.context_length * (2 if crossed else 1)
        assert stack_flops_per_token(config, decoder=stack is model.decoder) == 6 * matrices + scores
    head = 6 * config.hidden_size * config.vocab_size
    assert head_flops_per_token(config) == head + (6 * config.hidden_size**2 if config.head == "transform" else 0)
    assert body_flops_per_token(config) == stack_flops_per_token(config, decoder=model.encoder is None)


def test_a_sliding_window_costs_less() -> None:
    near = replace(TINY, sliding_window=3)
    assert body_flops_per_token(TINY) - body_flops_per_token(near) == 12 * 2 * 16 * (12 - 3)


@pytest.mark.parametrize("preset", ["qwen3", "t5"])
def test_cache_bytes_are_those_that_a_cache_takes(preset: str) -> None:
    config = replace(preset_model(preset).config, num_kv_heads=1)
    cache = DecoderCache.empty(config, 3, 10, torch.bfloat16, torch.device("cpu"))
    taken = sum(tensor.numel() * tensor.element_size() for own in cache.own for tensor in (own.keys, own.values))
    assert taken == 3 * 10 * cache_bytes_per_token(config)
    assert generation_bytes(config, 1000, 3, 10) == 2000 + taken


def test_depth_derives_the_rest_and_says_how() -> None:
    config, derived = derive_config(Model(depth=4), vocab_size=4096)
    assert (config.hidden_size, config.num_heads, config.intermediate_size, config.num_layers) == (256, 4, 704, 4)
    assert derived["hidden_size"] == "256 (64 x depth 4)"
    assert derived["positions"] == "rotary (preset qwen3)"
    config, derived = derive_config(Model(depth=2, hidden_size=32, num_heads=4, preset="gpt2"), vocab_size=300)
    assert (config.hidden_size, config.num_heads, config.intermediate_size) == (32, 4, 128)
    assert derived["hidden_size"] == "32 (set)"


@pytest.mark.parametrize("preset", PRESETS)
def test_every_part_of_a_preset_can_be_replaced(preset: str) -> None:
    changes = {"positions": "alibi", "norm": "rmsnorm", "qk_norm": True, "tied_embeddings": False}
    config, derived = derive_config(Model.model_validate({"preset": preset} | changes), 40)
    assert (config.positions, config.norm, config.qk_norm, config.tied_embeddings) == ("alibi", "rmsnorm", True, False)
    assert derived["positions"] == "alibi (set)"
    assert config.family == PRESETS[preset]["family"]


def test_a_shape_that_cannot_be_is_refused() -> None:
    with pytest.raises(HallmarkError, match="hidden_size 30 is not a multiple of num_heads 4"):
        derive_config(Model(hidden_size=30, num_heads=4), vocab_size=300)
    with pytest.raises(HallmarkError, match="num_heads 4 is not a multiple of num_kv_heads 3"):
        derive_config(Model(num_heads=4, num_kv_heads=3), vocab_size=300)
    with pytest.raises(HallmarkError, match=r"unknown keys depht; allowed: .*context_length"):
        ModelConfig.from_dict({**TINY.to_dict(), "depht": 1})


def test_the_body_of_a_task_has_nothing_that_predicts_tokens() -> None:
    for preset in PRESETS:
        config = preset_model(preset).config
        body = Transformer(config, heads=False)
        whole = {name for name, _ in Transformer(config).named_parameters()}
        own = {name for name, _ in body.named_parameters()}
        assert own < whole or (own == whole and config.tied_embeddings and config.head == "linear")
        assert not any(name.startswith(("lm_head", "pair_head")) for name in own)
        if config.family == "encoder-decoder":
            assert not any(name.startswith("decoder") for name in own)


def test_a_tied_head_is_the_embedding() -> None:
    model = tiny_model(tied_embeddings=True)
    assert model.lm_head is not None
    assert model.lm_head.weight is model.embedding.tokens.weight
    assert "lm_head" not in count_parameters(model)
