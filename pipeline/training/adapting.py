"""What of a pretrained model learns: all of it, low-rank adapters, or the head alone; and how fast each layer does."""

from torch import Tensor, nn

from pipeline.common.params import Finetune
from pipeline.model.adapters import add_adapters, freeze
from pipeline.model.transformer import Transformer

# A step computes the forward pass, the gradients of activations and those of weights: three parts of one size.
# Frozen weights need the second, if something below them learns, and never the third.
FLOPS_SHARES = {"full": 1.0, "lora": 2 / 3, "head": 1 / 3}


def adapt(body: nn.Module, settings: Finetune) -> None:
    """Freeze of a body with its pretrained weights what is not to learn, and put adapters on it if they are asked for.

    Raises:
        HallmarkError: the network has none of the matrices that are to be adapted.
    """
    if settings.adapt == "head":
        freeze(body)
    elif settings.adapt == "lora":
        add_adapters(body, settings.lora_rank, settings.lora_alpha, settings.lora_targets)


def describe_learning(model: nn.Module) -> str:
    """How many parameters learn, for people."""
    weights = [parameter for parameter in model.parameters() if parameter.is_floating_point()]  # not names of n-grams
    sizes = [(weight.numel(), weight.requires_grad) for weight in weights]
    learning, total = sum(size for size, learns in sizes if learns), sum(size for size, _ in sizes)
    return f"{learning:,} of {total:,} parameters ({learning / total:.1%})"


def layer_rate_factors(body: Transformer, decay: float) -> dict[Tensor, float]:
    """By what the learning rate of each parameter is multiplied: `decay` once for every block above it.

    The top block, the norm behind it and a head that is no embedding have 1, and what lies below all blocks
    (embeddings, scores of positions) `decay` to the number of blocks; an encoder lies below its decoder. The idea is
    Howard and Ruder's (2018, arXiv:1801.06146), by one factor a layer as in ELECTRA (Clark et al. 2020,
    arXiv:2003.10555).
    """
    stacks = [stack for stack in (body.encoder, body.decoder) if stack is not None]
    above = sum(len(stack.blocks) for stack in stacks)
    factors: dict[Tensor, float] = {}
    factors.update((parameter, decay**above) for parameter in body.parameters())
    for stack in stacks:
        for block in stack.blocks:
            above -= 1
            factors.update((parameter, decay**above) for parameter in block.parameters())
        factors.update((parameter, decay**above) for parameter in stack.norm.parameters())
    if body.lm_head is not None:
        tied = body.embedding.tokens.weight
        factors.update((parameter, 1.0) for parameter in body.lm_head.parameters() if parameter is not tied)
    return factors
