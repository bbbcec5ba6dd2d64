"""Familiar networks by name: each a choice of parts. `model.depth` scales any of them."""

from typing import Any

BERT: dict[str, Any] = {
    "family": "encoder",
    "positions": "learned",
    "norm": "layernorm",
    "norm_placement": "post",
    "norm_eps": 1e-12,
    "feed_forward": "gelu",
    "biases": "all",
    "qk_norm": False,
    "segments": 2,
    "embedding_norm": True,
    "head": "transform",
    "tied_embeddings": True,
}
LLAMA: dict[str, Any] = {
    "family": "decoder",
    "positions": "rotary",
    "norm": "rmsnorm",
    "norm_placement": "pre",
    "feed_forward": "swiglu",
    "biases": "none",
    "qk_norm": False,
    "tied_embeddings": False,
}
PRESETS: dict[str, dict[str, Any]] = {
    # Vaswani et al. 2017, arXiv:1706.03762
    "transformer-2017": {
        "family": "encoder-decoder",
        "positions": "sinusoidal",
        "norm": "layernorm",
        "norm_placement": "post",
        "norm_eps": 1e-5,
        "feed_forward": "relu",
        "biases": "feed_forward",
        "qk_norm": False,
        "tied_embeddings": True,
        "scale_embeddings": True,
    },
    # Radford et al. 2019
    "gpt2": {
        "family": "decoder",
        "positions": "learned",
        "norm": "layernorm",
        "norm_placement": "pre",
        "norm_eps": 1e-5,
        "feed_forward": "gelu_tanh",
        "biases": "all",
        "qk_norm": False,
        "tied_embeddings": True,
    },
    # Touvron et al. 2023, arXiv:2302.13971
    "llama": LLAMA,
    # Yang et al. 2025, arXiv:2505.09388
    "qwen3": LLAMA | {"qk_norm": True},
    # Devlin et al. 2019, arXiv:1810.04805
    "bert": BERT,
    # Liu et al. 2019, arXiv:1907.11692
    "roberta": BERT | {"segments": 0, "norm_eps": 1e-5},
    # Warner et al. 2024, arXiv:2412.13663; here with one rotary base for all layers
    "modernbert": {
        "family": "encoder",
        "positions": "rotary",
        "norm": "layernorm",
        "norm_placement": "pre",
        "norm_eps": 1e-5,
        "feed_forward": "geglu",
        "biases": "none",
        "qk_norm": False,
        "sliding_window": 65,  # 64 keys to each side
        "global_every": 3,
        "embedding_norm": True,
        "head": "transform",
        "tied_embeddings": True,
    },
    # Raffel et al. 2020, arXiv:1910.10683
    "t5": {
        "family": "encoder-decoder",
        "positions": "relative",
        "norm": "rmsnorm",
        "norm_placement": "pre",
        "feed_forward": "relu",
        "biases": "none",
        "qk_norm": False,
        "tied_embeddings": True,
        "scale_attention": False,
        "scale_logits": True,
    },
}
