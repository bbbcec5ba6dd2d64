"""A tiny real text, its tokens, and a tiny model for every objective."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from pipeline.common.params import Compute, Model, Pretrain
from pipeline.model.config import ModelConfig, derive_config
from pipeline.tokenization.shards import TokenShard, write_shards
from pipeline.tokenization.tokenizer import Tokenizer
from pipeline.tokenization.training import train_tokenizer
from pipeline.training.objectives import Objective, make_objective
from pipeline.training.runtime import Runtime, choose_runtime

CONTEXT = 24
PRESETS = {  # objective -> a network that learns it
    "causal": "qwen3",
    "prefix-lm": "llama",
    "mlm": "roberta",
    "mlm+nsp": "bert",
    "span-corruption": "t5",
}
SONNETS = (  # Shakespeare, 18, 73, 116 and 130
    "Shall I compare thee to a summer's day? Thou art more lovely and more temperate: Rough winds do shake the darling "
    "buds of May, And summer's lease hath all too short a date.",
    "That time of year thou mayst in me behold When yellow leaves, or none, or few, do hang Upon those boughs which "
    "shake against the cold, Bare ruin'd choirs, where late the sweet birds sang.",
    "Let me not to the marriage of true minds Admit impediments. Love is not love Which alters when it alteration "
    "finds, Or bends with the remover to remove.",
    "My mistress' eyes are nothing like the sun; Coral is far more red than her lips' red; If snow be white, why then "
    "her breasts are dun; If hairs be wires, black wires grow on her head.",
)


@cache
def tiny_tokenizer() -> Tokenizer:
    return train_tokenizer(SONNETS, "bytes", 1000)


@cache
def tiny_shard() -> TokenShard:
    """The sonnets, a byte a token: about 680 tokens in four documents."""
    with TemporaryDirectory() as folder:
        write_shards(Path(folder), {"train": ((text, "sonnets") for text in SONNETS)}, tiny_tokenizer())
        tokens = np.fromfile(Path(folder) / "train.bin", dtype=np.uint16)
        offsets = np.load(Path(folder) / "train.offsets.npy")
    return TokenShard(tokens, offsets, tiny_tokenizer().hash, sum(len(text.encode()) for text in SONNETS))


def tiny_objective(name: str, **changes: Any) -> Objective:
    settings = {"mask_share": 0.2, "mean_span": 2, "packing": "stream"} | changes
    return make_objective(name, tiny_tokenizer(), CONTEXT, Pretrain.model_validate(settings))


def tiny_config(objective: str, **changes: Any) -> ModelConfig:
    settings = {"depth": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 24, "context_length": CONTEXT}
    model = Model.model_validate({"preset": PRESETS[objective]} | settings | changes)
    return derive_config(model, tiny_tokenizer().vocab_size, pair_head=objective == "mlm+nsp")[0]


def tiny_runtime(**changes: Any) -> Runtime:
    fixed = {"device": "cpu", "precision": "bfloat16", "compile": "never"}
    return choose_runtime(Compute.model_validate(fixed | changes), 0)
