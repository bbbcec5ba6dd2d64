"""What published architectures are in our terms, as data: their settings, parts and names of weights.

A table of names maps our modules to theirs, `{}` being the number of the layer; a weight and a bias keep their last
names. Where several of ours share one of theirs, it holds them one after another.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.model.config import GATED, ModelConfig

LAYER = re.compile(r"blocks\.(\d+)\.")


@dataclass(frozen=True)
class Architecture:
    """One published architecture.

    Attributes:
        parts: fields of ModelConfig that it always has, with their values.
        keys: field of ModelConfig -> key of its config.json.
        defaults: of those keys, where a config.json may leave them out.
        activation: the key that names the feed-forward.
        activations: its values -> ours; the first of equals is written.
        must: other keys -> the values that are understood. A key that is missing has the first.
        names: our modules (or whole parameters) -> theirs.
        prefix: what files of the bare body leave out of the names.
        language, classifier, body: classes; a `classifier` of None has no form that ours fit.
        language_with_pairs: the class that has BERT's next-sentence head, too.
        transposed: ends of names of matrices that are stored the other way round.
        flipped: beginnings of names whose rows come in the other order: BERT's pairs that go on are class 0, ours 1.
        copies: names that may hold the same tensor as another.
        dropout, attention_dropout: keys that are written for those who go on training there.
        ungated: part of a name -> what stands there where the feed-forward has no gate.
        positions_after_pad: position 0 has the row behind pad_token_id, and one kind of segment is added to all tokens.
    """

    parts: Mapping[str, Any]
    keys: Mapping[str, str]
    defaults: Mapping[str, Any]
    activation: str
    activations: Mapping[str, str]
    names: Mapping[str, str]
    prefix: str
    language: str
    body: str
    classifier: str | None
    must: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    language_with_pairs: str | None = None
    transposed: tuple[str, ...] = ()
    flipped: tuple[str, ...] = ()
    copies: Mapping[str, str] = field(default_factory=dict)
    dropout: tuple[str, ...] = ()
    attention_dropout: str | None = "attention_dropout"
    ungated: tuple[str, str] | None = None
    positions_after_pad: bool = False

    def key(self, ours: str) -> str:
        """The entry of `names` that one of our weights belongs to."""
        general = LAYER.sub("blocks.{}.", ours, count=1)
        return general if general in self.names else general.rpartition(".")[0]

    def name(self, ours: str, config: ModelConfig) -> str:
        """Their name of one of our weights."""
        key, layer = self.key(ours), LAYER.search(ours)
        last = LAYER.sub("blocks.{}.", ours, count=1).removeprefix(key)
        theirs = self.names[key] + last
        if self.ungated is not None and config.feed_forward not in GATED:
            theirs = theirs.replace(*self.ungated)
        return theirs.format(layer[1]) if layer else theirs


PLAIN: dict[str, Any] = {
    "qk_norm": False,
    "sliding_window": None,
    "segments": 0,
    "pair_head": False,
    "embedding_norm": False,
    "head": "linear",
    "scale_embeddings": False,
    "scale_attention": True,
    "scale_logits": False,
}
FAMILIAR_KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "context_length": "max_position_embeddings",
    "tied_embeddings": "tie_word_embeddings",
}


def blocks(ours: str, theirs: str, names: Mapping[str, str]) -> dict[str, str]:
    return {f"{ours}.blocks.{{}}.{own}": f"{theirs}.{{}}.{other}" for own, other in names.items()}


GPT2 = Architecture(
    parts=PLAIN
    | {"family": "decoder", "positions": "learned", "norm": "layernorm", "norm_placement": "pre", "biases": "all"},
    keys={
        "vocab_size": "vocab_size",
        "hidden_size": "n_embd",
        "num_layers": "n_layer",
        "num_heads": "n_head",
        "intermediate_size": "n_inner",
        "context_length": "n_positions",
        "norm_eps": "layer_norm_epsilon",
        "tied_embeddings": "tie_word_embeddings",
    },
    defaults={"n_inner": None, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
    activation="activation_function",
    activations={"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu"},
    must={
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    names={
        "embedding.tokens": "transformer.wte",
        "embedding.positions": "transformer.wpe",
        **blocks(
            "decoder",
            "transformer.h",
            {
                "attention_norm": "ln_1",
                "attention.q_proj": "attn.c_attn",
                "attention.k_proj": "attn.c_attn",
                "attention.v_proj": "attn.c_attn",
                "attention.o_proj": "attn.c_proj",
                "feed_forward_norm": "ln_2",
                "feed_forward.up_proj": "mlp.c_fc",
                "feed_forward.down_proj": "mlp.c_proj",
            },
        ),
        "decoder.norm": "transformer.ln_f",
        "lm_head": "lm_head",
        "head": "score",
    },
    prefix="transformer.",
    language="GPT2LMHeadModel",
    body="GPT2Model",
    classifier="GPT2ForSequenceClassification",
    transposed=("c_attn.weight", "c_proj.weight", "c_fc.weight"),
    dropout=("embd_pdrop", "resid_pdrop"),
    attention_dropout="attn_pdrop",
)

LLAMA = Architecture(
    parts=PLAIN
    | {"family": "decoder", "positions": "rotary", "norm": "rmsnorm", "norm_placement": "pre", "biases": "none"},
    keys=FAMILIAR_KEYS
    | {
        "num_kv_heads": "num_key_value_heads",
        "head_size": "head_dim",
        "norm_eps": "rms_norm_eps",
        "rope_theta": "rope_theta",
    },
    defaults={
        "num_key_value_heads": None,
        "head_dim": None,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": False,
    },
    activation="hidden_act",
    activations={"silu": "swiglu", "gelu": "geglu", "gelu_pytorch_tanh": "geglu_tanh"},
    must={
        "attention_bias": (False,),
        "mlp_bias": (False,),
        "rope_scaling": (None,),
        "rope_parameters.rope_type": ("default",),
        "rope_parameters.partial_rotary_factor": (1.0, None),
    },
    names={
        "embedding.tokens": "model.embed_tokens",
        **blocks(
            "decoder",
            "model.layers",
            {
                "attention_norm": "input_layernorm",
                "attention.q_proj": "self_attn.q_proj",
                "attention.k_proj": "self_attn.k_proj",
                "attention.v_proj": "self_attn.v_proj",
                "attention.o_proj": "self_attn.o_proj",
                "attention.q_norm": "self_attn.q_norm",
                "attention.k_norm": "self_attn.k_norm",
                "feed_forward_norm": "post_attention_layernorm",
                "feed_forward.gate_proj": "mlp.gate_proj",
                "feed_forward.up_proj": "mlp.up_proj",
                "feed_forward.down_proj": "mlp.down_proj",
            },
        ),
        "decoder.norm": "model.norm",
        "lm_head": "lm_head",
        "head": "score",
    },
    prefix="model.",
    language="LlamaForCausalLM",
    body="LlamaModel",
    classifier="LlamaForSequenceClassification",
)

QWEN3 = Architecture(
    parts={**LLAMA.parts, "qk_norm": True},
    keys=LLAMA.keys,
    defaults={**LLAMA.defaults, "head_dim": 128},
    activation=LLAMA.activation,
    activations=LLAMA.activations,
    must={
        **{key: values for key, values in LLAMA.must.items() if key != "mlp_bias"},
        "use_sliding_window": (False,),
        "layer_types": ("full_attention",),
    },
    names=LLAMA.names,
    prefix="model.",
    language="Qwen3ForCausalLM",
    body="Qwen3Model",
    classifier="Qwen3ForSequenceClassification",
)

BERT_BODY = {
    "embedding.tokens": "embeddings.word_embeddings",
    "embedding.positions": "embeddings.position_embeddings",
    "embedding.segments": "embeddings.token_type_embeddings",
    "embedding.norm": "embeddings.LayerNorm",
    **blocks(
        "encoder",
        "encoder.layer",
        {
            "attention.q_proj": "attention.self.query",
            "attention.k_proj": "attention.self.key",
            "attention.v_proj": "attention.self.value",
            "attention.o_proj": "attention.output.dense",
            "attention_norm": "attention.output.LayerNorm",
            "feed_forward.up_proj": "intermediate.dense",
            "feed_forward.down_proj": "output.dense",
            "feed_forward_norm": "output.LayerNorm",
        },
    ),
}
BERT_PARTS = PLAIN | {
    "family": "encoder",
    "positions": "learned",
    "norm": "layernorm",
    "norm_placement": "post",
    "biases": "all",
    "embedding_norm": True,
    "head": "transform",
}
BERT_MUST = {"is_decoder": (False,), "add_cross_attention": (False,), "position_embedding_type": ("absolute",)}
BERT_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}

BERT = Architecture(
    parts={name: value for name, value in BERT_PARTS.items() if name not in ("segments", "pair_head")},
    keys=FAMILIAR_KEYS | {"norm_eps": "layer_norm_eps", "segments": "type_vocab_size"},
    defaults={"type_vocab_size": 2, "layer_norm_eps": 1e-12, "tie_word_embeddings": True},
    activation="hidden_act",
    activations=BERT_ACTIVATIONS,
    must=BERT_MUST,
    names={
        **{own: f"bert.{other}" for own, other in BERT_BODY.items()},
        "lm_head.dense": "cls.predictions.transform.dense",
        "lm_head.norm": "cls.predictions.transform.LayerNorm",
        "lm_head.weight": "cls.predictions.decoder.weight",
        "lm_head.bias": "cls.predictions.bias",
        "pair_head.pooler": "bert.pooler.dense",
        "pair_head.classifier": "cls.seq_relationship",
        "head.pooler": "bert.pooler.dense",
        "head": "classifier",
    },
    prefix="bert.",
    language="BertForMaskedLM",
    language_with_pairs="BertForPreTraining",
    body="BertModel",
    classifier="BertForSequenceClassification",
    flipped=("cls.seq_relationship.",),
    copies={"cls.predictions.decoder.bias": "cls.predictions.bias"},
    dropout=("hidden_dropout_prob",),
    attention_dropout="attention_probs_dropout_prob",
)

ROBERTA = Architecture(
    parts=BERT_PARTS,
    keys={**FAMILIAR_KEYS, "norm_eps": "layer_norm_eps"},
    defaults={"layer_norm_eps": 1e-12, "tie_word_embeddings": True},
    activation="hidden_act",
    activations=BERT_ACTIVATIONS,
    must={**BERT_MUST, "type_vocab_size": (1,)},
    names={
        **{own: f"roberta.{other}" for own, other in BERT_BODY.items()},
        "lm_head.dense": "lm_head.dense",
        "lm_head.norm": "lm_head.layer_norm",
        "lm_head.weight": "lm_head.decoder.weight",
        "lm_head.bias": "lm_head.bias",
        "head.pooler": "classifier.dense",
        "head": "classifier.out_proj",
    },
    prefix="roberta.",
    language="RobertaForMaskedLM",
    body="RobertaModel",
    classifier="RobertaForSequenceClassification",
    copies={"lm_head.decoder.bias": "lm_head.bias"},
    dropout=("hidden_dropout_prob",),
    attention_dropout="attention_probs_dropout_prob",
    positions_after_pad=True,
)


def t5_layer(place: int, attention: str, ours: str) -> dict[str, str]:
    names = {f"{ours}.{part}_proj": f"layer.{place}.{attention}.{part}" for part in "qkvo"}
    return {f"{ours}_norm": f"layer.{place}.layer_norm", **names}


def t5_feed_forward(place: int) -> dict[str, str]:
    names = {"feed_forward.gate_proj": "wi_0", "feed_forward.up_proj": "wi_1", "feed_forward.down_proj": "wo"}
    return {
        "feed_forward_norm": f"layer.{place}.layer_norm",
        **{own: f"layer.{place}.DenseReluDense.{other}" for own, other in names.items()},
    }


T5_ATTENTION = t5_layer(0, "SelfAttention", "attention")
T5_BIAS = "block.0.layer.0.SelfAttention.relative_attention_bias"
T5 = Architecture(
    parts={name: value for name, value in PLAIN.items() if name != "scale_logits"}
    | {
        "family": "encoder-decoder",
        "positions": "relative",
        "norm": "rmsnorm",
        "norm_placement": "pre",
        "biases": "none",
        "scale_attention": False,
    },
    keys={
        "vocab_size": "vocab_size",
        "hidden_size": "d_model",
        "head_size": "d_kv",
        "num_layers": "num_layers",
        "num_decoder_layers": "num_decoder_layers",
        "num_heads": "num_heads",
        "intermediate_size": "d_ff",
        "context_length": "n_positions",
        "norm_eps": "layer_norm_epsilon",
        "tied_embeddings": "tie_word_embeddings",
    },
    defaults={
        "num_decoder_layers": None,
        "n_positions": 512,
        "layer_norm_epsilon": 1e-6,
        "tie_word_embeddings": True,
    },
    activation="feed_forward_proj",
    activations={"relu": "relu", "gelu": "gelu", "gated-gelu": "geglu_tanh", "gated-silu": "swiglu"},
    must={"relative_attention_num_buckets": (32,), "relative_attention_max_distance": (128,)},
    names={
        "embedding.tokens": "shared",
        "encoder.relative_bias": f"encoder.{T5_BIAS}",
        **blocks("encoder", "encoder.block", {**T5_ATTENTION, **t5_feed_forward(1)}),
        "encoder.norm": "encoder.final_layer_norm",
        "decoder.relative_bias": f"decoder.{T5_BIAS}",
        **blocks(
            "decoder",
            "decoder.block",
            {**T5_ATTENTION, **t5_layer(1, "EncDecAttention", "cross_attention"), **t5_feed_forward(2)},
        ),
        "decoder.norm": "decoder.final_layer_norm",
        "lm_head": "lm_head",
    },
    prefix="",
    language="T5ForConditionalGeneration",
    body="T5EncoderModel",
    classifier=None,
    copies={"encoder.embed_tokens.weight": "shared.weight", "decoder.embed_tokens.weight": "shared.weight"},
    dropout=("dropout_rate",),
    attention_dropout=None,
    ungated=("wi_1", "wi"),
)

ARCHITECTURES: dict[str, Architecture] = {
    "gpt2": GPT2,
    "llama": LLAMA,
    "qwen3": QWEN3,
    "bert": BERT,
    "roberta": ROBERTA,
    "t5": T5,
}
EVERY_MUST: dict[str, tuple[Any, ...]] = {"quantization_config": (None,)}
