"""What an import takes, what it names, and what it refuses: all of it at once, with what to type."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from pipeline.common.errors import HallmarkError
from pipeline.common.files import read_json, sha256_file, sha256_folder
from pipeline.common.params import Model
from pipeline.model.interchange.importing import import_model, imported_config, starting_model
from pipeline.model.weights import read_weights
from tests.model.published import CONTEXT, publish, random_model

Change = Callable[[dict[str, Any]], None]


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")


def change_settings(folder: Path, **settings: Any) -> None:
    config = read_json(folder / "config.json")
    (folder / "config.json").write_text(json.dumps(config | settings))


@pytest.fixture
def published(tmp_path: Path) -> Path:
    publish("gpt2", tmp_path / "published")
    return tmp_path / "published"


def test_it_says_what_was_read_and_writes_the_same_bytes_twice(published: Path, tmp_path: Path) -> None:
    told = import_model(f"hf:{published}", tmp_path / "one")
    assert told == read_json(tmp_path / "one" / "config.json")["import"]
    assert told["source"] == f"hf:{published}"
    names = ("config.json", "model.safetensors", "tokenizer.json")
    assert told["files"] == {name: sha256_file(published / name) for name in names}
    assert (tmp_path / "one" / "tokenizer.json").read_bytes() == (published / "tokenizer.json").read_bytes()
    import_model(f"hf:{published}", tmp_path / "two")
    assert sha256_folder(tmp_path / "one") == sha256_folder(tmp_path / "two")


def test_shards_and_half_precision_are_one_float32_file_here(published: Path, tmp_path: Path) -> None:
    model = random_model("gpt2", read_json(published / "config.json")["vocab_size"]).to(torch.bfloat16)
    for file in published.glob("model*"):
        file.unlink()
    model.save_pretrained(published, max_shard_size="20kB")
    assert len(list(published.glob("model-*.safetensors"))) > 1
    told = import_model(f"hf:{published}", tmp_path / "ours")
    assert {name for name in told["files"] if name.endswith(".safetensors")} == {
        path.name for path in published.glob("*.safetensors")
    }
    weights, _, _ = read_weights(tmp_path / "ours")
    assert {value.dtype for value in weights.values()} == {torch.float32}
    expected = model.transformer.wte.weight.detach().float()
    assert torch.equal(weights["embedding.tokens.weight"], expected)


def test_files_of_a_bare_body_and_of_old_names_are_read(tmp_path: Path) -> None:
    model = publish("bert", tmp_path / "published")
    import_model(f"hf:{tmp_path / 'published'}", tmp_path / "whole")
    model.bert.save_pretrained(tmp_path / "published")

    def rename(weights: dict[str, torch.Tensor]) -> None:  # as the first conversions of BERT wrote them
        for name in [name for name in weights if "LayerNorm" in name]:
            old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
            weights[old] = weights.pop(name)
        weights["embeddings.position_ids"] = torch.arange(CONTEXT)[None]

    change_weights(tmp_path / "published", rename)
    told = import_model(f"hf:{tmp_path / 'published'}", tmp_path / "body")
    assert told["missing"] == [
        "lm_head.bias",
        "lm_head.dense.weight",
        "lm_head.dense.bias",
        "lm_head.norm.weight",
        "lm_head.norm.bias",
    ]
    assert told["left_behind"] == ["bert.pooler.dense.bias", "bert.pooler.dense.weight"]
    whole, body = read_weights(tmp_path / "whole")[0], read_weights(tmp_path / "body")[0]
    assert body
    assert all(torch.equal(value, whole[name]) for name, value in body.items())


def test_what_published_files_hold_beside_weights_is_passed_over(tmp_path: Path) -> None:
    extra = {
        "gpt2": {"h.0.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.uint8), "h.0.attn.masked_bias": torch.ones(())},
        "llama": {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)},
        "t5": {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": torch.ones(32, 4)},
    }
    for kind, buffers in extra.items():
        publish(kind, tmp_path / kind)
        import_model(f"hf:{tmp_path / kind}", tmp_path / "plain" / kind)

        def add(weights: dict[str, torch.Tensor], kind: str = kind) -> None:
            for name in [name for name in weights if kind == "gpt2"]:  # the first GPT-2 has no prefix
                weights[name.removeprefix("transformer.")] = weights.pop(name)
            weights.update(extra[kind])

        change_weights(tmp_path / kind, add)
        told = import_model(f"hf:{tmp_path / kind}", tmp_path / "ours" / kind)
        assert (told["missing"], told["left_behind"]) == ([], []), buffers.keys()
        plain, ours = read_weights(tmp_path / "plain" / kind)[0], read_weights(tmp_path / "ours" / kind)[0]
        assert plain.keys() == ours.keys()
        assert all(torch.equal(plain[name], ours[name]) for name in plain)


def test_another_task_s_head_is_left_behind_and_missing_ones_start_at_random(tmp_path: Path) -> None:
    publish("bert", tmp_path / "published")
    config = transformers.BertConfig.from_pretrained(tmp_path / "published")
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path / "published")
    told = import_model(f"hf:{tmp_path / 'published'}", tmp_path / "ours")
    assert "classifier.weight" in told["left_behind"]
    settings = Model(init_from="hf:it", context_length=32)
    torch.manual_seed(1)
    model, decided = starting_model(settings, tmp_path / "ours", 0, pair_head=True)
    assert decided["starts_at_random"] == ", ".join([*told["missing"], "pair_head"])
    assert model.config.context_length == 32
    weights, _, _ = read_weights(tmp_path / "ours")
    own = dict(model.named_parameters())
    assert torch.equal(own["embedding.positions.weight"], weights["embedding.positions.weight"][:32])
    assert all(torch.equal(own[n], v) for n, v in weights.items() if n != "embedding.positions.weight")
    assert own["lm_head.dense.weight"].std() > 0


def test_settings_that_contradict_the_imported_model_are_refused_all_at_once(published: Path, tmp_path: Path) -> None:
    import_model(f"hf:{published}", tmp_path / "ours")
    fitting = Model(init_from="hf:it", depth=9, hidden_size=32, num_kv_heads=4, context_length=100, dropout=0.2)
    config, decided = imported_config(tmp_path / "ours", fitting, pair_head=False)
    assert (config.num_layers, config.context_length, config.dropout) == (2, 100, 0.2)
    assert "model.preset and model.depth are not read" in decided["init_from"]
    wrong = Model(init_from="hf:it", hidden_size=64, positions="rotary", qk_norm=True, context_length=CONTEXT + 1)
    with pytest.raises(HallmarkError) as caught:
        imported_config(tmp_path / "ours", wrong, pair_head=False)
    message = str(caught.value)
    assert "4 problems" in message
    assert "hidden_size: 64; hf:it has 32" in message
    assert "positions: rotary; hf:it has learned" in message
    assert f"context_length: {CONTEXT + 1}; hf:it has {CONTEXT}" in message


def test_a_pickle_is_refused_with_the_way_to_convert_it(published: Path, tmp_path: Path) -> None:
    (published / "model.safetensors").rename(published / "pytorch_model.bin")
    (published / "tokenizer.json").rename(published / "vocab.json")
    with pytest.raises(HallmarkError) as caught:
        import_model(f"hf:{published}", tmp_path / "ours")
    message = str(caught.value)
    assert "2 problems" in message
    assert "pytorch_model.bin: a pickle can run any program when it is read" in message
    assert f"from transformers import GPT2LMHeadModel as It; It.from_pretrained('{published}')" in message
    assert "from transformers import AutoTokenizer as It" in message
    assert not (tmp_path / "ours").exists()


def test_unknown_architectures_list_the_known_ones(published: Path, tmp_path: Path) -> None:
    change_settings(published, model_type="mamba")
    with pytest.raises(HallmarkError, match=r"model_type: 'mamba'; allowed: gpt2, llama, qwen3, bert, roberta, t5"):
        import_model(f"hf:{published}", tmp_path / "ours")


UNSUPPORTED: dict[str, tuple[dict[str, Any], list[str]]] = {
    "gpt2": (
        {"activation_function": "swish", "scale_attn_by_inverse_layer_idx": True, "quantization_config": {"bits": 4}},
        ["activation_function: 'swish'; allowed: gelu_new", "scale_attn_by_inverse_layer_idx: True", "quantization"],
    ),
    "llama": (
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}, "attention_bias": True, "mlp_bias": True},
        ["rope_parameters.rope_type: 'llama3'; allowed: default", "attention_bias: True; allowed: False", "mlp_bias"],
    ),
    "qwen3": (
        {"use_sliding_window": True, "layer_types": ["full_attention", "sliding_attention"], "rope_scaling": {"a": 1}},
        ["use_sliding_window: True", "layer_types: ['full_attention', 'sliding_attention']", "rope_scaling"],
    ),
    "bert": (
        {"position_embedding_type": "relative_key", "is_decoder": True, "hidden_act": "mish"},
        ["position_embedding_type: 'relative_key'; allowed: absolute", "is_decoder: True", "hidden_act: 'mish'"],
    ),
    "roberta": ({"type_vocab_size": 2, "pad_token_id": None}, ["type_vocab_size: 2; allowed: 1", "pad_token_id"]),
    "t5": (
        {"feed_forward_proj": "gated-relu", "relative_attention_num_buckets": 64},
        ["feed_forward_proj: 'gated-relu'; allowed: relu", "relative_attention_num_buckets: 64; allowed: 32"],
    ),
}


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_what_is_not_here_is_refused_key_by_key(kind: str, tmp_path: Path) -> None:
    publish(kind, tmp_path / "published")
    settings, expected = UNSUPPORTED[kind]
    change_settings(tmp_path / "published", **settings)
    with pytest.raises(HallmarkError) as caught:
        import_model(f"hf:{tmp_path / 'published'}", tmp_path / "ours")
    assert f"{len(expected)} problem" in str(caught.value)
    for part in expected:
        assert part in str(caught.value)


def test_weights_that_are_missing_left_over_or_of_another_shape_are_all_named(published: Path, tmp_path: Path) -> None:
    def spoil(weights: dict[str, torch.Tensor]) -> None:
        weights["transformer.h.0.extra"] = weights.pop("transformer.h.0.ln_1.weight")
        weights["transformer.wpe.weight"] = torch.zeros(CONTEXT, 8)
        weights["lm_head.weight"] = weights["transformer.wte.weight"] + 1

    change_weights(published, spoil)
    with pytest.raises(HallmarkError) as caught:
        import_model(f"hf:{published}", tmp_path / "ours")
    message = str(caught.value)
    assert "4 problems" in message
    assert "transformer.h.0.ln_1.weight: missing" in message
    assert "transformer.h.0.extra: left over" in message
    assert f"transformer.wpe.weight: of shape [{CONTEXT}, 8], not [{CONTEXT}, 32]" in message
    assert "lm_head.weight: differs from the embedding, although tie_word_embeddings is true" in message


def test_whole_numbers_are_quantised_weights(published: Path, tmp_path: Path) -> None:
    change_weights(published, lambda weights: weights.update({"transformer.wte.weight": torch.ones(4).to(torch.int8)}))
    with pytest.raises(
        HallmarkError, match=r"1 problem\n  - transformer.wte.weight: is quantised, of torch.int8; allowed: .*float32"
    ):
        import_model(f"hf:{published}", tmp_path / "ours")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("gpt2", "'gpt2' has no scheme; allowed: hf:FOLDER, hf:NAME"),
        ("hf:./no/such/folder", "there is no folder ./no/such/folder"),
    ],
)
def test_sources_that_are_none(source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(HallmarkError, match=message):
        import_model(source, tmp_path / "ours")
