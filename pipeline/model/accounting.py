"""What a network has and costs: parameters by group, FLOPs per token."""

from torch import nn

from pipeline.model.config import ModelConfig


def count_parameters(module: nn.Module) -> dict[str, int]:
    """Parameters by top-level part, each tensor counted once; the values sum to the total."""
    groups: dict[str, int] = {}
    for name, parameter in module.named_parameters():  # a shared tensor is named once
        group = name.split(".")[0]
        groups[group] = groups.get(group, 0) + parameter.numel()
    return groups


def training_flops_per_token(config: ModelConfig, *, head: bool = True) -> int:
    """6 N + 12 L D T: forward and backward FLOPs per token (Kaplan et al. 2020; Chowdhery et al. 2022, app. B).

    N counts the matrices that each token is multiplied by (blocks, and the output head if there is one; not
    the embedding look-up), L layers, D hidden size, T context length.
    """
    per_layer = 4 * config.hidden_size**2 + 3 * config.hidden_size * config.intermediate_size
    matrices = config.num_layers * per_layer + (config.hidden_size * config.vocab_size if head else 0)
    return 6 * matrices + 12 * config.num_layers * config.hidden_size * config.context_length
