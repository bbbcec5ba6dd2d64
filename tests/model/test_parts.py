"""Each part of the network against a slow or published truth."""

import itertools
import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from pipeline.common.errors import HallmarkError
from pipeline.common.params import Model
from pipeline.common.parts import PART_CHOICES
from pipeline.model.attention import (
    Attention,
    Sight,
    attend,
    attend_by_blocks,
    attend_fast,
    padding_bias,
    record_attention,
    visible_bias,
    visible_blocks,
)
from pipeline.model.block import Stack
from pipeline.model.config import GATED, ModelConfig, derive_config
from pipeline.model.feed_forward import FEED_FORWARDS, FeedForward
from pipeline.model.norms import NORMS, LayerNorm, RMSNorm
from pipeline.model.positions import (
    POSITIONS,
    alibi_slopes,
    relative_buckets,
    rotary_tables,
    rotate,
    sinusoidal_table,
)
from pipeline.model.presets import PRESETS
from pipeline.model.transformer import Transformer

TINY = ModelConfig(
    vocab_size=40,
    hidden_size=16,
    num_layers=2,
    num_heads=2,
    intermediate_size=24,
    context_length=12,
    tied_embeddings=False,
    dropout=0.0,
)
IDS = torch.arange(12)[None]
OTHER_PARTS: dict[str, dict[str, Any]] = {  # than those of any preset
    "alibi": {"positions": "alibi"},
    "window": {"sliding_window": 3},
    "grouped": {"num_kv_heads": 1},
    "ngrams": {"ngram_sizes": (2, 3), "ngram_buckets": 50},
}


def tiny_model(**changes: Any) -> Transformer:
    """A model with large random weights everywhere, norms and biases included."""
    torch.manual_seed(0)
    model = Transformer(replace(TINY, **changes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def preset_model(preset: str, **changes: Any) -> Transformer:
    shape = {"depth": 2, "hidden_size": 16, "num_heads": 2, "context_length": 12}
    config, _ = derive_config(Model.model_validate({"preset": preset} | shape), 40)
    return tiny_model(**{field.name: getattr(config, field.name) for field in fields(config)} | changes)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.sampled_from([2, 4, 8]), st.booleans())
def test_written_out_attention_equals_torchs(batch: int, heads: int, length: int, head_dim: int, causal: bool) -> None:
    torch.manual_seed(batch * 100 + length)
    q, k, v = torch.randn(3, batch, heads, length, head_dim, dtype=torch.float64)
    places = torch.arange(length)[None]
    bias = visible_bias(places, places, causal=causal)
    wide = None if bias is None else bias.double()
    torch.testing.assert_close(
        attend(q, k, v, wide, 1 / math.sqrt(head_dim)),
        scaled_dot_product_attention(q, k, v, wide),
        atol=1e-6,
        rtol=1e-6,
    )


@pytest.mark.parametrize("kv_heads", [1, 4])
@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("sees", ["earlier", "prefix", "all"])
@torch.inference_mode()
def test_attention_by_blocks_equals_the_written_out_one(kv_heads: int, window: int | None, sees: str) -> None:
    """Rows of several documents, some blocks of which see nothing; what a GPU compiles runs here as it is."""
    torch.manual_seed(0)
    q, (k, v) = torch.randn(2, 4, 400, 16), torch.randn(2, 2, kv_heads, 400, 16)
    lengths = torch.tensor([[130], [70]])
    places, documents = torch.arange(400) % lengths, torch.arange(400) // lengths
    hidden = {"causal": sees != "all", "window": window, "prefix_BS": documents + 20 if sees == "prefix" else None}
    blocks = visible_blocks(documents, places, **hidden)
    bias = visible_bias(places, places, documents_BT=documents, **hidden)
    k_of_all, v_of_all = (x.repeat_interleave(4 // kv_heads, dim=1) for x in (k, v))
    found, expected = attend_by_blocks(q, k, v, blocks, 0.3), attend(q, k_of_all, v_of_all, bias, 0.3)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert blocks.to_dense().float().mean() < 0.8  # of the blocks of 128 x 128 are looked at


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_fast_attention_equals_the_written_out_one(kv_heads: int, causal: bool, padded: bool) -> None:
    """What a GPU uses; on a CPU torch runs the same call."""
    torch.manual_seed(0)
    q, (k, v) = torch.randn(2, 4, 7, 8), torch.randn(2, 2, kv_heads, 7, 8)
    places, visible = torch.arange(7)[None], torch.arange(7) < torch.tensor([[7], [4]])
    bias = visible_bias(places, places, causal=causal, visible_BS=visible if padded else None)
    k_of_all, v_of_all = (x.repeat_interleave(4 // kv_heads, dim=1) for x in (k, v))
    torch.testing.assert_close(
        attend_fast(q, k, v, Sight(bias, causal=causal and not padded), 0.3),
        attend(q, k_of_all, v_of_all, bias, 0.3),
        atol=1e-5,
        rtol=1e-5,
    )


def test_attention_is_the_formula_worked_out_by_hand() -> None:
    q, k, v = (torch.tensor([[[[1.0, 0.0], [0.0, 2.0]]]]), torch.eye(2)[None, None], torch.tensor([[[[4.0], [8.0]]]]))
    first, second = math.exp(1 / math.sqrt(2)), math.exp(2 / math.sqrt(2))
    expected = [[(4 * first + 8) / (first + 1)], [(4 + 8 * second) / (1 + second)]]
    torch.testing.assert_close(attend(q, k, v, None, 1 / math.sqrt(2)), torch.tensor([[expected]]))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 7), st.booleans(), st.one_of(st.none(), st.integers(1, 4)), st.integers(0, 7), st.booleans())
def test_the_mask_against_a_loop(length: int, causal: bool, window: int | None, prefix: int, padded: bool) -> None:
    places = torch.arange(length)
    visible = torch.tensor([[True] * (length - 1) + [not padded]])
    prefix_BS = torch.tensor([[prefix]]) if causal else None
    bias = visible_bias(
        places[None],
        places[None],
        causal=causal,
        window=window,
        visible_BS=visible if padded else None,
        prefix_BS=prefix_BS,
    )
    alike = not causal and window is None
    assert bias is None or bias.size(2) == (1 if alike else length)
    for query, key in itertools.product(range(length), repeat=2):
        seen = not causal or key <= query or key < prefix
        seen = seen and (window is None or abs(query - key) < window) and bool(visible[0, key])
        without_nan = not visible.any() if alike else query == key
        expected = 0.0 if seen or without_nan else -math.inf
        assert (0.0 if bias is None else float(bias[0, 0, 0 if alike else query, key])) == expected


def test_memory_of_nothing_but_padding_gives_no_nan() -> None:
    bias = padding_bias(torch.tensor([[True, False], [False, False]]))
    assert bias is not None
    assert bias[:, 0, 0].tolist() == [[0.0, -math.inf], [0.0, 0.0]]
    model = preset_model("t5")
    memory = model.encode(IDS.expand(2, -1), torch.zeros(2, 12, dtype=torch.bool))
    assert model.decode(IDS[:, :3].expand(2, -1), memory).isfinite().all()


def test_sinusoids_against_the_papers_formula() -> None:
    table = sinusoidal_table(50, 7)
    for position, place in itertools.product((0, 1, 17, 49), range(7)):
        angle = position / 10_000 ** (2 * (place // 2) / 7)
        expected = math.cos(angle) if place % 2 else math.sin(angle)
        assert float(table[position, place]) == pytest.approx(expected, abs=1e-6)


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    cos, sin = rotary_tables(20, 8, 10_000.0)
    q, k = torch.randn(2, 8, dtype=torch.float64)

    def score(i: int, j: int) -> float:
        return float(rotate(q, cos[i].double(), sin[i].double()) @ rotate(k, cos[j].double(), sin[j].double()))

    assert score(3, 1) == pytest.approx(score(17, 15), abs=1e-6)
    assert score(3, 1) != pytest.approx(score(3, 2), abs=1e-3)


def test_alibi_slopes_of_the_paper() -> None:
    assert alibi_slopes(8).tolist() == [2.0**-power for power in range(1, 9)]
    twelve = [*alibi_slopes(8).tolist(), *(2 ** -(power / 2) for power in (1, 3, 5, 7))]
    assert alibi_slopes(12).tolist() == pytest.approx(twelve)


def test_alibi_lowers_the_score_by_slope_times_distance() -> None:
    stack = Stack(replace(TINY, positions="alibi"), causal=True)
    sight = stack._sights(IDS, None, None, None, None)[None]
    assert sight.bias is not None
    slopes = alibi_slopes(2)
    assert float(sight.bias[0, 1, 7, 4]) == pytest.approx(-3 * float(slopes[1]))
    assert float(sight.bias[0, 0, 4, 7]) == -math.inf


def test_relative_buckets_hold_near_keys_apart_and_far_ones_together() -> None:
    behind = relative_buckets(-torch.arange(400), causal=True).tolist()
    assert behind[:16] == list(range(16))
    assert behind == sorted(behind)
    assert behind[128:] == [31] * 272
    ahead = relative_buckets(torch.arange(1, 9), causal=False).tolist()
    assert ahead[:7] == [16 + distance for distance in range(1, 8)]
    assert relative_buckets(torch.tensor([5]), causal=True).tolist() == [0]


def test_norms_against_their_formulas() -> None:
    x = torch.randn(4, 6)
    rms, layer = RMSNorm(6, 1e-6), LayerNorm(6, 1e-6, bias=True)
    for parameter in (*rms.parameters(), *layer.parameters()):
        torch.nn.init.normal_(parameter)
    assert layer.bias is not None
    for row, rms_row, layer_row in zip(x.tolist(), rms(x).tolist(), layer(x).tolist(), strict=True):
        mean = sum(row) / 6
        scale, deviation = (
            math.sqrt(sum(u * u for u in row) / 6 + 1e-6),
            math.sqrt(sum((u - mean) ** 2 for u in row) / 6 + 1e-6),
        )
        assert rms_row == pytest.approx(
            [w * u / scale for u, w in zip(row, rms.weight.tolist(), strict=True)], abs=1e-5
        )
        expected = [
            w * (u - mean) / deviation + b
            for u, w, b in zip(row, layer.weight.tolist(), layer.bias.tolist(), strict=True)
        ]
        assert layer_row == pytest.approx(expected, abs=1e-5)


ACTIVATIONS = {
    "relu": lambda x: max(x, 0.0),
    "gelu": lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu2": lambda x: max(x, 0.0) ** 2,
    "swiglu": lambda x: x / (1 + math.exp(-x)),
}


@pytest.mark.parametrize("name", FEED_FORWARDS)
def test_feed_forward_against_its_formula(name: str) -> None:
    torch.manual_seed(0)
    part = FeedForward(replace(TINY, feed_forward=name))
    x = torch.randn(16)
    activation = ACTIVATIONS[name.replace("geglu", "gelu")]
    up = (part.up_proj.weight @ x).tolist()
    if part.gate_proj is None:
        middle = [activation(value) for value in up]
    else:
        middle = [
            activation(gate) * value for gate, value in zip((part.gate_proj.weight @ x).tolist(), up, strict=True)
        ]
    torch.testing.assert_close(part(x), part.down_proj.weight @ torch.tensor(middle), atol=1e-5, rtol=1e-5)
    assert (name in GATED) == (part.gate_proj is not None)


def test_the_names_in_params_are_the_parts_that_there_are() -> None:
    assert PART_CHOICES["positions"] == POSITIONS
    assert set(PART_CHOICES["norm"]) == set(NORMS)
    assert PART_CHOICES["feed_forward"] == tuple(FEED_FORWARDS)
    with pytest.raises(
        HallmarkError,
        match=r"(?s)positions: unknown 'rotory'; allowed: sinusoidal.*norm: unknown 'rms'; allowed: layernorm, rms",
    ):
        replace(TINY, norm="rms", positions="rotory")


GRID = [
    {"positions": positions, "norm": norm, "norm_placement": placement, "feed_forward": feed_forward, "family": family}
    for positions, norm, placement, feed_forward, family in itertools.product(
        POSITIONS, NORMS, ("pre", "post"), ("relu", "swiglu"), PART_CHOICES["family"]
    )
]


@pytest.mark.parametrize(("preset", "writers"), [("qwen3", 4), ("bert", 4), ("t5", 6)])
def test_what_writes_to_the_residual_stream_begins_smaller(preset: str, writers: int) -> None:
    torch.manual_seed(0)
    config, _ = derive_config(Model.model_validate({"preset": preset, "depth": 2, "hidden_size": 128}), 40)
    model = Transformer(config)
    stack = model.decoder or model.encoder
    assert stack is not None
    for name, weight in stack.state_dict().items():
        fan_in = weight.size(-1)
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            assert float(weight.std()) == pytest.approx(1 / math.sqrt(fan_in * writers), rel=0.05), name
        elif name.endswith(("v_proj.weight", "up_proj.weight")):
            assert float(weight.std()) == pytest.approx(1 / math.sqrt(fan_in), rel=0.05), name


@pytest.mark.parametrize("parts", GRID, ids=lambda parts: "-".join(parts.values()))
def test_every_combination_of_parts_learns_and_masks(parts: dict[str, Any]) -> None:
    """A few steps lower the loss, every parameter has a gradient, and no position sees a later one, nor padding."""
    torch.manual_seed(0)
    model = Transformer(replace(TINY, num_kv_heads=1, biases="all", **parts))
    target = IDS[:, :5] if model.config.family == "encoder-decoder" else None
    labels = torch.arange(5 if target is not None else 12) + 20

    def loss() -> Tensor:
        return torch.nn.functional.cross_entropy(model(IDS, None, target)[0], labels)

    before = loss()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.003)
    for _ in range(4):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert loss().item() < before.item()
    model.eval()
    with torch.no_grad():
        if model.decoder is not None:
            ids = IDS if target is None else IDS[:, :6]
            memory = model.encode(IDS) if target is not None else None
            changed = ids.clone()
            changed[0, 4:] = 39
            torch.testing.assert_close(model.decode(ids, memory)[:, :4], model.decode(changed, memory)[:, :4])
        if model.encoder is not None:
            visible = torch.arange(12)[None] < 7
            changed = IDS.clone()
            changed[0, 7:] = 39
            seen, other = (model.hidden_states(ids, visible)[:, :7] for ids in (IDS, changed))
            torch.testing.assert_close(seen, other)


@pytest.mark.parametrize("preset", PRESETS)
def test_padding_on_the_right_changes_nothing(preset: str) -> None:
    model, text = preset_model(preset), torch.tensor([[5, 9, 3, 22]])
    padded = torch.cat((text, torch.zeros(1, 3, dtype=torch.long)), dim=1)
    states = model.hidden_states(padded, padded != 0)
    torch.testing.assert_close(states[:, :4], model.hidden_states(text), atol=1e-5, rtol=1e-5)
    assert states.isfinite().all()


@pytest.mark.parametrize("name", [*PRESETS, *OTHER_PARTS])
def test_states_that_are_asked_for_are_those_of_the_whole(name: str) -> None:
    """Of a row's places several, in any order; and so are their gradients, though the last block makes no others."""
    model = preset_model(name) if name in PRESETS else tiny_model(**OTHER_PARTS[name])
    ids, asked_BR = torch.stack([IDS[0], IDS[0].flip(0)]), torch.tensor([[7, 2], [0, 11]])
    visible_BT = torch.tensor([[9], [12]]) > IDS

    def states(asked_BR: Tensor | None) -> Tensor:
        return model.hidden_states(ids, visible_BT, asked_BR=asked_BR)

    found, expected = states(asked_BR), states(None)[torch.arange(2)[:, None], asked_BR]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    weight = model.embedding.tokens.weight
    gradients = [torch.autograd.grad(some.square().sum(), weight)[0] for some in (found, expected)]
    torch.testing.assert_close(*gradients, atol=1e-3, rtol=1e-3)


def test_a_prefix_is_seen_by_all_and_the_rest_only_by_what_follows() -> None:
    model, prefix = tiny_model(), torch.tensor([[4]])
    plain = model.hidden_states(IDS, prefix_BS=prefix)
    inside, outside = IDS.clone(), IDS.clone()
    inside[0, 3], outside[0, 6] = 39, 39
    assert not torch.equal(model.hidden_states(inside, prefix_BS=prefix)[:, 0], plain[:, 0])
    torch.testing.assert_close(model.hidden_states(outside, prefix_BS=prefix)[:, :6], plain[:, :6], rtol=0, atol=0)


def test_a_sliding_window_hides_what_is_far() -> None:
    model = tiny_model(num_layers=1, sliding_window=3)
    changed = IDS.clone()
    changed[0, 2] = 39
    one, other = model.hidden_states(IDS), model.hidden_states(changed)
    torch.testing.assert_close(one[:, 5:], other[:, 5:], rtol=0, atol=0)
    assert not torch.equal(one[:, 4], other[:, 4])
    layers = replace(TINY, num_layers=4, sliding_window=3, global_every=3)
    assert [layers.window(layer) for layer in range(4)] == [None, 3, 3, None]


def test_grouped_queries_equal_the_same_keys_for_several_heads() -> None:
    grouped, full = tiny_model(num_heads=4, num_kv_heads=2, qk_norm=False), tiny_model(num_heads=4, qk_norm=False)
    weights = {name: value.clone() for name, value in grouped.state_dict().items()}
    for name in weights:
        if ".k_proj." in name or ".v_proj." in name:
            weights[name] = weights[name].unflatten(0, (2, 4)).repeat_interleave(2, dim=0).flatten(0, 1)
    full.load_state_dict(weights)
    torch.testing.assert_close(grouped(IDS), full(IDS))


def test_recorded_weights_are_those_that_attention_used() -> None:
    model = preset_model("t5")
    with record_attention(model) as weights:
        recorded = model(IDS, None, IDS[:, :5])
    torch.testing.assert_close(recorded, model(IDS, None, IDS[:, :5]))
    assert {tuple(call.shape) for calls in weights.values() for call in calls} == {
        (1, 2, 12, 12),
        (1, 2, 5, 5),
        (1, 2, 5, 12),
    }
    for calls in weights.values():
        torch.testing.assert_close(calls[0].sum(-1), torch.ones(calls[0].shape[:-1]))
    attention = model.encoder.blocks[0].attention  # type: ignore[union-attr,index]
    assert attention.recorded is None  # type: ignore[union-attr]


def test_dropout_on_weights_is_off_in_evaluation() -> None:
    model = tiny_model(attention_dropout=0.5)
    assert torch.equal(model(IDS), model(IDS))
    model.train()
    assert not torch.equal(model(IDS), model(IDS))


def test_a_sight_without_a_bias_sees_everything() -> None:
    attention = Attention(TINY)
    x = torch.randn(1, 5, 16)
    zero = torch.zeros(1, 1, 5, 5)
    torch.testing.assert_close(attention(x, Sight()), attention(x, Sight(zero)))


def test_too_many_tokens_are_refused() -> None:
    with pytest.raises(HallmarkError, match="13 tokens do not fit the model's context of 12"):
        tiny_model()(torch.zeros(1, 13, dtype=torch.long))
