"""A published config.json to ModelConfig and back, by the tables of `architectures.py`."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.common.errors import HallmarkError, Problems, allowed
from pipeline.model.config import ModelConfig
from pipeline.model.interchange.architectures import ARCHITECTURES, EVERY_MUST, Architecture

OF_HEADS = ("head", "pair_head", "scale_logits", "tied_embeddings")  # fields that say nothing about a bare body
MISSING = object()


def read_settings(raw: Mapping[str, Any], where: str) -> tuple[str, ModelConfig]:
    """The model_type and the configuration that a published config.json says, without dropout or BERT's pair head.

    Raises:
        HallmarkError: an unknown model_type, or keys that are missing or ask for what we have not; all at once, each
            with the values allowed.
    """
    model_type = raw.get("model_type")
    if model_type not in ARCHITECTURES:
        raise HallmarkError(f"model_type: {model_type!r}; {allowed(ARCHITECTURES)}", where=where)
    architecture = ARCHITECTURES[model_type]
    problems = Problems(where)
    for key, understood in {**EVERY_MUST, **architecture.must}.items():
        found = _look_up(raw, key, understood[0])
        if any(value not in understood for value in (found if isinstance(found, list) else [found])):
            problems.add(f"{key}: {found!r}; {allowed(understood)}")
    activation = raw.get(architecture.activation, next(iter(architecture.activations)))
    if activation not in architecture.activations:
        problems.add(f"{architecture.activation}: {activation!r}; {allowed(architecture.activations)}")
    values: dict[str, Any] = {}
    for name, key in architecture.keys.items():
        found = _look_up(raw, key, architecture.defaults.get(key, MISSING))
        if found is MISSING:
            problems.add(f"{key}: missing")
        values[name] = found
    if architecture.positions_after_pad and raw.get("pad_token_id") is None:
        problems.add("pad_token_id: missing; positions are counted from it")
    problems.raise_if_any(fix="this needs parts that are not here; take another model")
    if values["intermediate_size"] is None:
        values["intermediate_size"] = 4 * values["hidden_size"]  # GPT-2's n_inner: null
    if architecture.positions_after_pad:
        values["context_length"] -= raw["pad_token_id"] + 1
    if "scale_logits" not in architecture.parts:  # the first T5 scales, v1.1 does not
        values["scale_logits"] = raw.get("scale_decoder_outputs", values["tied_embeddings"])
    return model_type, ModelConfig(
        **{**architecture.parts, **values},
        feed_forward=architecture.activations[activation],
        dropout=0.0,
    )


def _look_up(raw: Mapping[str, Any], key: str, default: Any) -> Any:
    """The value of `key`, or `outer.inner`. What turns positions may stand in `rope_parameters`."""
    outer, _, inner = key.partition(".")
    if inner:
        return (raw.get(outer) or {}).get(inner, default)
    return raw.get(key, (raw.get("rope_parameters") or {}).get(key, default))


def find_architecture(config: ModelConfig, *, body_only: bool = False) -> str:
    """The model_type of the published architecture that has exactly these parts.

    Args:
        config: of the network.
        body_only: its heads do not matter.

    Raises:
        HallmarkError: there is none; each part that the nearest one has not is named, with what it would have to be.
    """
    found = {
        model_type: list(_differences(architecture, config, body_only))
        for model_type, architecture in ARCHITECTURES.items()
    }
    nearest = min(found, key=lambda name: (ARCHITECTURES[name].parts["family"] != config.family, len(found[name])))
    if found[nearest]:
        problems = Problems(f"no published architecture has these parts; the nearest is {nearest}")
        for difference in found[nearest]:
            problems.add(difference)
        problems.raise_if_any(fix=f"change these keys of model in params.yaml, or take model.preset: {nearest}")
    return nearest


def _differences(architecture: Architecture, config: ModelConfig, body_only: bool) -> Iterator[str]:
    for name, value in architecture.parts.items():
        if getattr(config, name) != value and not (body_only and name in OF_HEADS):
            yield f"{name}: {getattr(config, name)}; it would have to be {value}"
    if config.feed_forward not in architecture.activations.values():
        choices = " or ".join(dict.fromkeys(architecture.activations.values()))
        yield f"feed_forward: {config.feed_forward}; it would have to be {choices}"
    if config.ngram_sizes:
        yield f"ngram_sizes: {list(config.ngram_sizes)}; it would have to be null"
    if "segments" in architecture.keys and not config.segments:
        yield "segments: 0; it would have to be 1 or more"
    if "num_kv_heads" not in architecture.keys and config.kv_heads != config.num_heads:
        yield f"num_kv_heads: {config.kv_heads}; it would have to be {config.num_heads}, as many as num_heads"
    if "head_size" not in architecture.keys and config.head_dim * config.num_heads != config.hidden_size:
        yield f"head_size: {config.head_dim}; it would have to be hidden_size / num_heads"
    if "num_decoder_layers" not in architecture.keys and config.num_decoder_layers is not None:
        yield f"num_decoder_layers: {config.num_decoder_layers}; it would have to be null"


def write_settings(model_type: str, config: ModelConfig, pad_id: int) -> dict[str, Any]:
    """The config.json of these parts, without what belongs to the tokenizer but the pad token."""
    architecture = ARCHITECTURES[model_type]
    shape = {"num_kv_heads": config.kv_heads, "head_size": config.head_dim, "num_decoder_layers": config.decoder_layers}
    written = {key: shape.get(name, getattr(config, name)) for name, key in architecture.keys.items()}
    activation = next(theirs for theirs, ours in architecture.activations.items() if ours == config.feed_forward)
    written |= {key: values[0] for key, values in architecture.must.items() if "." not in key and key != "layer_types"}
    written |= dict.fromkeys(architecture.dropout, config.dropout)
    if architecture.attention_dropout is not None:
        written[architecture.attention_dropout] = config.attention_dropout
    if "rope_theta" in written:  # older readers take it from the top, newer ones from here
        written["rope_parameters"] = {"rope_theta": config.rope_theta, "rope_type": "default"}
    if architecture.positions_after_pad:
        written["max_position_embeddings"] += pad_id + 1
    if writes_copied_head(config):
        written["tie_word_embeddings"] = False
    return {
        **written,
        "model_type": model_type,
        architecture.activation: activation,
        "pad_token_id": pad_id,
        "dtype": "float32",
        "is_encoder_decoder": config.family == "encoder-decoder",
        "use_cache": config.family != "encoder",
    }


def writes_copied_head(config: ModelConfig) -> bool:
    """T5 calls tied embeddings that do not scale logits untied, so the head is written a second time."""
    return config.family == "encoder-decoder" and config.tied_embeddings and not config.scale_logits
