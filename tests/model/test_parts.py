"""Each part of the network against a slow or published truth."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from pipeline.common.errors import HallmarkError
from pipeline.common.params import Model
from pipeline.model.accounting import count_parameters, training_flops_per_token
from pipeline.model.attention import attend, causal_bias
from pipeline.model.config import ModelConfig, derive_config
from pipeline.model.decoder import Decoder
from pipeline.model.generation import generate
from pipeline.model.norms import RMSNorm
from pipeline.model.positions import rotary_tables, rotate

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


def tiny_decoder(**changes: Any) -> Decoder:
    """A decoder with random weights everywhere: freshly made ones have zero output projections."""
    torch.manual_seed(0)
    model = Decoder(replace(TINY, **changes))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.sampled_from([2, 4, 8]))
def test_written_out_attention_equals_torchs(batch: int, heads: int, length: int, head_dim: int) -> None:
    torch.manual_seed(batch * 100 + length)
    q, k, v = torch.randn(3, batch, heads, length, head_dim, dtype=torch.float64)
    bias = causal_bias(length, torch.device("cpu")).double()
    torch.testing.assert_close(attend(q, k, v, bias), scaled_dot_product_attention(q, k, v, bias), atol=1e-6, rtol=1e-6)


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    cos, sin = rotary_tables(20, 8, 10_000.0)
    q, k = torch.randn(2, 8, dtype=torch.float64)

    def score(i: int, j: int) -> float:
        return float(rotate(q, cos[i].double(), sin[i].double()) @ rotate(k, cos[j].double(), sin[j].double()))

    assert score(3, 1) == pytest.approx(score(17, 15), abs=1e-6)
    assert score(3, 1) != pytest.approx(score(3, 2), abs=1e-3)


def test_rms_norm_against_its_formula() -> None:
    norm = RMSNorm(6, 1e-6)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(4, 6)
    weight = norm.weight.tolist()
    expected = [
        [w * v / math.sqrt(sum(u * u for u in row) / 6 + 1e-6) for v, w in zip(row, weight, strict=True)]
        for row in x.tolist()
    ]
    torch.testing.assert_close(norm(x), torch.tensor(expected))


def test_no_position_sees_a_later_one() -> None:
    model, ids = tiny_decoder(), torch.arange(12)[None]
    changed = ids.clone()
    changed[0, 7:] = 39
    torch.testing.assert_close(model(ids)[:, :7], model(changed)[:, :7], rtol=0, atol=0)
    assert not torch.equal(model(ids)[:, 7:], model(changed)[:, 7:])


def test_padding_changes_nothing_on_either_side() -> None:
    model, text = tiny_decoder(), torch.tensor([[5, 9, 3, 22]])
    padded = torch.cat((text, torch.zeros(1, 3, dtype=torch.long)), dim=1)
    torch.testing.assert_close(model.hidden_states(padded)[:, :4], model.hidden_states(text))
    padded = torch.cat((torch.zeros(1, 3, dtype=torch.long), text), dim=1)
    mask = padded != 0
    # rotary scores depend on distances alone, so a shift by the padding changes nothing either
    torch.testing.assert_close(
        model.hidden_states(padded, mask)[:, 3:], model.hidden_states(text), atol=1e-5, rtol=1e-5
    )
    assert model.hidden_states(padded, mask).isfinite().all()


def test_too_many_tokens_are_refused() -> None:
    with pytest.raises(HallmarkError, match="13 tokens do not fit the model's context of 12"):
        tiny_decoder()(torch.zeros(1, 13, dtype=torch.long))


@pytest.mark.parametrize("tied", [False, True])
def test_parameter_groups_sum_to_the_total(tied: bool) -> None:
    model = tiny_decoder(tied_embeddings=tied)
    groups = count_parameters(model)
    assert sum(groups.values()) == sum(p.numel() for p in model.parameters())
    assert ("lm_head" in groups) is not tied


def test_flops_formula_counts_every_matrix() -> None:
    model = tiny_decoder()
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name)
    attention = 12 * TINY.num_layers * TINY.hidden_size * TINY.context_length
    assert training_flops_per_token(TINY) == 6 * matrices + attention


def test_depth_derives_the_rest_and_says_how() -> None:
    config, derived = derive_config(Model(depth=4), vocab_size=4096)
    assert (config.hidden_size, config.num_heads, config.intermediate_size, config.num_layers) == (256, 4, 704, 4)
    assert derived["hidden_size"] == "256 (64 x depth 4)"
    config, derived = derive_config(Model(depth=2, hidden_size=32, num_heads=4), vocab_size=300)
    assert (config.hidden_size, config.num_heads, config.intermediate_size) == (32, 4, 128)
    assert derived["hidden_size"] == "32 (set)"


def test_a_shape_that_cannot_be_is_refused() -> None:
    with pytest.raises(HallmarkError, match="hidden_size 30 is not a multiple of num_heads 4"):
        derive_config(Model(hidden_size=30, num_heads=4), vocab_size=300)
    with pytest.raises(HallmarkError, match="unknown keys depht; allowed: context_length"):
        ModelConfig.from_dict({**TINY.to_dict(), "depht": 1})


def test_generation_is_seeded_and_greedy_takes_the_likeliest() -> None:
    model = tiny_decoder()
    first = generate(model, [1], max_new_tokens=20, seed=3)
    assert first == generate(model, [1], max_new_tokens=20, seed=3)
    assert first != generate(model, [1], max_new_tokens=20, seed=4)
    greedy = generate(model, [1, 7], max_new_tokens=3, temperature=0)
    ids = [1, 7]
    for token in greedy:
        assert token == int(model(torch.tensor([ids]))[0, -1].argmax())
        ids.append(token)
    with pytest.raises(HallmarkError, match="empty prompt"):
        generate(model, [], max_new_tokens=1)
