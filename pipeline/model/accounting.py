"""What a network has and costs: parameters by group, FLOPs per token, bytes of its cache."""

from torch import nn

from pipeline.model.config import GATED, ModelConfig


def count_parameters(module: nn.Module) -> dict[str, int]:
    """Parameters by top-level part, each tensor counted once; the values sum to the total."""
    groups: dict[str, int] = {}
    for name, parameter in module.named_parameters():  # a shared tensor is named once
        group = name.split(".")[0]
        groups[group] = groups.get(group, 0) + parameter.numel()
    return groups


def count_block_parameters(module: nn.Module) -> int:
    """Parameters inside blocks: those that grow with depth and width alone."""
    return sum(parameter.numel() for name, parameter in module.named_parameters() if "blocks." in name)


def stack_flops_per_token(config: ModelConfig, *, decoder: bool) -> int:
    """6 N + 12 L W S: forward and backward FLOPs per token (Kaplan et al. 2020; Chowdhery et al. 2022, app. B).

    N counts the matrices of the stack that each token is multiplied by, L its layers, W the width of all heads, S the
    keys seen: the context, or the sliding window. A decoder's cross-attention counts as a second attention.
    """
    layers = config.decoder_layers if decoder else config.encoder_layers
    heads = config.num_heads * config.head_dim
    attention = 2 * config.hidden_size * (heads + config.kv_heads * config.head_dim)
    feed_forward = (3 if config.feed_forward in GATED else 2) * config.hidden_size * config.intermediate_size
    across = attention if decoder and config.encoder_layers else 0
    scores = 0
    for layer in range(layers):
        window = config.window(layer)
        reach = (window if decoder else 2 * window) if window else config.context_length
        scores += 12 * heads * min(reach, config.context_length) * (2 if across else 1)
    return 6 * layers * (attention + across + feed_forward) + scores


def head_flops_per_token(config: ModelConfig) -> int:
    """6 N of the head that predicts tokens."""
    transform = config.hidden_size**2 if config.head == "transform" else 0
    return 6 * (config.hidden_size * config.vocab_size + transform)


def body_flops_per_token(config: ModelConfig) -> int:
    """Of the stack that a task builds on: the encoder where there is one."""
    return stack_flops_per_token(config, decoder=config.family == "decoder")


def cache_bytes_per_token(config: ModelConfig, bytes_per_value: int = 2) -> int:
    """Keys and values of one token in all decoder layers."""
    return 2 * config.decoder_layers * config.kv_heads * config.head_dim * bytes_per_value


def generation_bytes(config: ModelConfig, parameters: int, batch: int, length: int, bytes_per_value: int = 2) -> int:
    """Memory to generate with: the weights, and the cache of `batch` texts of `length` tokens."""
    return parameters * bytes_per_value + batch * length * cache_bytes_per_token(config, bytes_per_value)
