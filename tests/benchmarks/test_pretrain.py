"""The benchmark of pretraining: its arms at toy size, nanoGPT rebuilt, its arithmetic, and what it refuses."""

import json
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from benchmarks.__main__ import main
from benchmarks.arms import pretraining
from benchmarks.arms.nanogpt import Layer, NanoGPT
from benchmarks.pretrain import PRESETS, format_result
from benchmarks.turns import Work
from pipeline.common.params import Model
from pipeline.model.config import derive_config
from pipeline.model.transformer import Transformer
from tests.benchmarks.arms import rounds_of

TOY: dict[str, Any] = {
    "depth": 1,
    "width": 64,
    "tied": True,
    "context": 24,
    "batch": 2,
    "vocab_size": 400,
    "steps": 2,
    "eager": True,
}
ARMS: dict[str, Work] = {
    "hallmark-muon": pretraining.hallmark,
    "hallmark-adamw": pretraining.hallmark,
    "nanogpt": pretraining.nanogpt,
    "trainer": pretraining.trainer,
}
needs_accelerate = pytest.mark.skipif(find_spec("accelerate") is None, reason="pip install -e .[bench]")


@pytest.mark.parametrize(
    ("family", "arm"),
    [
        ("decoder", "hallmark-muon"),
        ("decoder", "nanogpt"),
        pytest.param("decoder", "trainer", marks=needs_accelerate),
        ("encoder", "hallmark-adamw"),
        pytest.param("encoder", "trainer", marks=needs_accelerate),
        ("encoder-decoder", "hallmark-muon"),
        pytest.param("encoder-decoder", "trainer", marks=needs_accelerate),
    ],
)
def test_every_arm_trains_until_its_clock_ends_it(family: str, arm: str) -> None:
    start, *rounds = rounds_of(ARMS[arm], TOY | PRESETS[family] | {"arm": arm})
    assert all(one["steps"] == 2 and one["seconds"] > 0 for one in rounds)
    assert start["step_tokens"] == 2 * 24
    assert start["flops_per_token"] > 6 * 12 * 64**2
    assert start["compiled"] is False
    assert start["parameters"] > 64 * 400


def test_the_rebuilt_nanogpt_is_gpt2_without_biases() -> None:
    settings = {"preset": "gpt2", "depth": 2, "hidden_size": 64, "num_heads": 4, "context_length": 12}
    parts = {"biases": "none", "feed_forward": "gelu"}
    ours = Transformer(derive_config(Model.model_validate(settings | parts), vocab_size=50)[0])
    theirs = NanoGPT(vocab_size=50, context=12, layers=2, width=64, heads=4, tied=True)
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(parameter.numel()))
    ours.load_state_dict(in_our_names(theirs), strict=True)
    assert sum(w.numel() for w in ours.parameters()) == sum(w.numel() for w in theirs.parameters())
    ids_BT = torch.randint(50, (3, 13), generator=torch.Generator().manual_seed(0))
    expected = cross_entropy(ours(ids_BT[:, :-1]).flatten(0, 1), ids_BT[:, 1:].flatten())
    torch.testing.assert_close(theirs(ids_BT[:, :-1], ids_BT[:, 1:]), expected)


def in_our_names(theirs: NanoGPT) -> dict[str, torch.Tensor]:
    names = {
        "attention_norm": "attention_norm",
        "mlp_norm": "feed_forward_norm",
        "attention_out": "attention.o_proj",
        "up": "feed_forward.up_proj",
        "down": "feed_forward.down_proj",
    }
    found = {
        "embedding.tokens.weight": theirs.tokens.weight,
        "embedding.positions.weight": theirs.positions.weight,
        "decoder.norm.weight": theirs.norm.weight,
        "lm_head.weight": theirs.head.weight,
    }
    for number, layer in enumerate(theirs.layers):
        assert isinstance(layer, Layer)
        block = f"decoder.blocks.{number}"
        found |= {f"{block}.{ours}.weight": getattr(layer, name).weight for name, ours in names.items()}
        for part, weight in zip("qkv", layer.qkv.weight.chunk(3), strict=True):
            found[f"{block}.attention.{part}_proj.weight"] = weight
    return found


def test_a_real_run_measures_speed_and_mfu(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["pretrain", "--json", "--sizes", "toy", "--context", "24", "--batch", "2", "--vocab-size", "400"]
    main([*command, "--steps", "2", "--repeats", "3", "--eager", "--arms", "hallmark-adamw,nanogpt"])
    found = json.loads(capsys.readouterr().out)
    (comparison,) = found["comparisons"]
    assert list(comparison["arms"]) == ["hallmark-adamw", "nanogpt"]
    for arm in comparison["arms"].values():
        seconds = sorted(arm["step_seconds"])
        assert len(seconds) == 3
        assert arm["tokens_per_second"] == pytest.approx(2 * 24 / seconds[1])
        assert 0 < arm["mfu"] < 1
    ours, theirs = comparison["arms"]["hallmark-adamw"], comparison["arms"]["nanogpt"]
    ratios = [theirs["step_seconds"][place] / ours["step_seconds"][place] for place in range(3)]
    assert ours["ratio"] == {"nanogpt": pytest.approx(sorted(ratios)[1])}
    assert theirs["ratio"] == {}
    table = format_result(found)
    assert f"{ours['tokens_per_second']:,.0f}" in table
    assert [line.split()[0] for line in table.splitlines()[-2:]] == ["hallmark-adamw", "nanogpt"]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(SystemExit, match="there is no 7B; allowed: toy, 5M, 12M"):
        main(["pretrain", "--sizes", "5M,7B"])
    with pytest.raises(SystemExit, match="there is no gpt; allowed: decoder, encoder, encoder-decoder"):
        main(["pretrain", "--families", "gpt"])
    with pytest.raises(SystemExit, match="nanogpt is a decoder"):
        main(["pretrain", "--families", "encoder", "--arms", "nanogpt"])
