"""What a network has and costs: parameters by group, FLOPs per token, bytes of its cache and of a training's memory."""

from dataclasses import dataclass

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


@dataclass(frozen=True)
class Shape:
    """One micro-batch: `rows` of `source` tokens each; the head predicts `targets` tokens of every row."""

    rows: int
    source: int
    targets: int


def activation_bytes(config: ModelConfig, shape: Shape, value_bytes: int, *, written_out: bool = True) -> int:
    """What an eager forward pass keeps for the backward pass, without the logits.

    It counts what autograd saves (as Korthikanti et al. 2022, arXiv:2205.05198, do for another block). For each token
    and layer, with D the width, A and G that of all heads of queries and of keys, F of the feed-forward part, H heads,
    S keys, w the bytes of a value in a matrix product (2 in bfloat16, where every product keeps a copy of its own of
    what goes in; 4 in float32, where they share one):

        norms           8 D each: what goes in, widened, and its scaled form
        attention       w D for each of q, k, v; 8 (A + G) for their norms; 4 w A for q, k, v and the output
        its weights     (4 + w) H S, in float32 4 H S; none where a fused kernel makes them anew
        feed-forward    w D for each product that reads x; w F, times 4 if gated, 1 for relu, 2 for the others
        dropout         a mask for what it is applied to
        head            4 D: the gradient of what it reads, made with the loss

    A compiled training keeps less: it makes anew what is cheap.

    Args:
        config: the network.
        shape: of the micro-batch.
        value_bytes: w.
        written_out: attention weights are held, as on a CPU.
    """
    kept = _Kept(config, value_bytes, written_out)
    source, targets = shape.rows * shape.source, shape.rows * shape.targets
    layers = config.encoder_layers or config.decoder_layers  # of the stack that reads the source
    total = targets * kept.head() + source * (kept.ends() + layers * kept.block(shape.source))
    if config.family == "encoder-decoder":
        layer = targets * (kept.block(shape.targets) + kept.across(shape.source)) + source * kept.memory()
        total += targets * kept.ends() + config.decoder_layers * layer
    return total


@dataclass(frozen=True)
class _Kept:
    """Bytes kept for one token by each part of a network, see `activation_bytes`."""

    config: ModelConfig
    value_bytes: int
    written_out: bool

    @property
    def norm(self) -> int:
        return 8 * self.config.hidden_size

    def copies(self, products: int) -> int:
        """What goes into so many products of one input."""
        return self.value_bytes * self.config.hidden_size * (1 if self.value_bytes == 4 else products)

    def dropout(self, value_bytes: int) -> int:
        return value_bytes * self.config.hidden_size if self.config.dropout else 0

    def block(self, seen: int) -> int:
        config, w = self.config, self.value_bytes
        gated = config.feed_forward in GATED
        inner = 4 if gated else 1 if config.feed_forward == "relu" else 2
        attention = self.norm + self.copies(3) + self.attention(seen)
        feed_forward = self.norm + self.copies(2 if gated else 1) + inner * w * config.intermediate_size
        return attention + feed_forward + 2 * self.dropout(w)

    def attention(self, seen: int) -> int:
        """From q, k and v on, where as many keys as queries are made."""
        config, w = self.config, self.value_bytes
        queries, keys = config.num_heads * config.head_dim, config.kv_heads * config.head_dim
        norms = 8 * (queries + keys) if config.qk_norm else 0
        return norms + self.weights(seen) + w * (4 * queries if self.written_out else 2 * (queries + keys))

    def weights(self, seen: int) -> int:
        if not self.written_out:
            return 4 * self.config.num_heads
        w = self.value_bytes
        softmax = 4 if w == 4 else 4 + w
        return self.config.num_heads * seen * (softmax + (2 * w if self.config.attention_dropout else 0))

    def across(self, seen: int) -> int:
        """Cross-attention, for each target."""
        config, w = self.config, self.value_bytes
        queries = config.num_heads * config.head_dim
        norms = 8 * queries if config.qk_norm else 0
        return self.norm + self.copies(1) + norms + self.weights(seen) + 2 * w * queries + self.dropout(w)

    def memory(self) -> int:
        """Cross-attention, for each token of the source: keys and values."""
        config, w = self.config, self.value_bytes
        queries, keys = config.num_heads * config.head_dim, config.kv_heads * config.head_dim
        norms = 8 * keys if config.qk_norm else 0
        return (2 * w * config.hidden_size if w != 4 else 0) + norms + 2 * w * (queries if self.written_out else keys)

    def ends(self) -> int:
        """The embedding and the last norm."""
        norms = (self.config.norm_placement == "pre") + self.config.embedding_norm
        return norms * self.norm + self.dropout(4)

    def head(self) -> int:
        """The gradient by what its matrix reads, which the loss makes at once; BERT's transform before it."""
        width = self.config.hidden_size
        if self.config.head != "transform":
            return 4 * width
        return self.copies(1) + 2 * self.value_bytes * width + self.norm


def logit_bytes(config: ModelConfig, shape: Shape, at_once: int) -> int:
    """The logits of a part of the targets in float32, less their largest, and their powers, all alive at once.

    Args:
        config, shape: see `activation_bytes`.
        at_once: targets of a part.
    """
    targets = shape.rows * shape.targets
    return 3 * 4 * min(targets, at_once) * config.vocab_size


def low_precision_bytes(module: nn.Module, value_bytes: int) -> int:
    """Autocast's copies of the matrices; they live as long as the activations."""
    return 0 if value_bytes == 4 else value_bytes * sum(w.numel() for w in module.parameters() if w.ndim == 2)
