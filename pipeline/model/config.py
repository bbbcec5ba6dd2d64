"""The shape and the parts of a network, derived from one dial and a preset."""

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from pipeline.common.errors import HallmarkError, Problems, allowed
from pipeline.common.parts import PART_CHOICES
from pipeline.model.presets import PRESETS

if TYPE_CHECKING:
    from pipeline.common.params import Model

HEAD_DIM = 64
NGRAM_BUCKETS = 32_768
GATED = ("swiglu", "geglu", "geglu_tanh")


@dataclass(frozen=True)
class ModelConfig:
    """All that decides a network's parameters and what it computes. The defaults are Qwen3's form.

    Attributes:
        num_layers: blocks of the decoder or encoder, or of each of the two.
        num_kv_heads: heads of keys and values; None: as many as of queries.
        head_size: None: hidden_size / num_heads.
        num_decoder_layers: None: as many as the encoder has (encoder-decoder only).
        biases: of linear layers and LayerNorms: none, feed_forward (the paper of 2017), or all.
        sliding_window: keys at a distance of this or more are not seen; None: all are.
        global_every: with a sliding window, every so many layers one sees everything, the first among them;
            1: every layer has the window.
        ngram_sizes: tokens of the n-grams whose vectors are added to their last token's, ascending; none: ().
        ngram_buckets: rows of the table of each size.
        segments: kinds of segment (BERT's sentence A and B); 0: none.
        pair_head: BERT's pooler and its head for next-sentence prediction.
        head: what predicts tokens: linear, or BERT's transform before it.
        scale_embeddings: multiply token embeddings by sqrt(D) (Vaswani et al. 2017, section 3.4).
        scale_attention: divide scores by sqrt(K); T5 does not.
        scale_logits: divide states by sqrt(D) before a tied head, as the first T5 does.
    """

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    context_length: int
    tied_embeddings: bool
    dropout: float
    family: str = "decoder"
    num_kv_heads: int | None = None
    head_size: int | None = None
    num_decoder_layers: int | None = None
    positions: str = "rotary"
    norm: str = "rmsnorm"
    norm_placement: str = "pre"
    feed_forward: str = "swiglu"
    biases: str = "none"
    qk_norm: bool = True
    sliding_window: int | None = None
    global_every: int = 1
    ngram_sizes: tuple[int, ...] = ()
    ngram_buckets: int = NGRAM_BUCKETS
    segments: int = 0
    pair_head: bool = False
    embedding_norm: bool = False
    head: str = "linear"
    attention_dropout: float = 0.0
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6
    scale_embeddings: bool = False
    scale_attention: bool = True
    scale_logits: bool = False

    def __post_init__(self) -> None:
        problems = Problems("model")
        for part, names in PART_CHOICES.items():
            if getattr(self, part) not in names:
                problems.add(f"{part}: unknown {getattr(self, part)!r}; {allowed(names)}")
        if self.head_size is None and self.hidden_size % self.num_heads:
            problems.add(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        elif self.positions == "rotary" and self.head_dim % 2:
            problems.add(f"hidden_size / num_heads = {self.head_dim} is odd; rotary positions turn pairs")
        if self.num_heads % self.kv_heads:
            problems.add(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.kv_heads}")
        if list(self.ngram_sizes) != sorted({size for size in self.ngram_sizes if size > 1}):
            problems.add(f"ngram_sizes {list(self.ngram_sizes)}: allowed are numbers from 2 on, each once, ascending")
        problems.raise_if_any(fix="change these keys of model in params.yaml")

    @property
    def head_dim(self) -> int:
        return self.head_size or self.hidden_size // self.num_heads

    @property
    def kv_heads(self) -> int:
        return self.num_kv_heads or self.num_heads

    @property
    def encoder_layers(self) -> int:
        return 0 if self.family == "decoder" else self.num_layers

    @property
    def decoder_layers(self) -> int:
        return 0 if self.family == "encoder" else self.num_decoder_layers or self.num_layers

    def window(self, layer: int) -> int | None:
        """The sliding window of a layer, or None where it sees everything."""
        is_global = self.global_every > 1 and layer % self.global_every == 0
        return None if is_global else self.sliding_window

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"ngram_sizes": list(self.ngram_sizes)}  # as JSON gives it back

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        names = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - names):
            raise HallmarkError(
                f"unknown keys {', '.join(unknown)}; {allowed(sorted(names))}", where="config.json: model"
            )
        if "ngram_sizes" in values:  # JSON knows lists only
            values = values | {"ngram_sizes": tuple(values["ngram_sizes"])}
        return cls(**values)


def derive_config(model: "Model", vocab_size: int, pair_head: bool = False) -> tuple[ModelConfig, dict[str, str]]:
    """Derive the shape from `model.depth` and the parts from `model.preset`; what the user set is kept.

    Args:
        model: settings.
        vocab_size: of the tokenizer.
        pair_head: the objective predicts next sentences, too.

    Returns:
        The configuration, and for each derived value its formula, to be printed and recorded.
    """
    preset = PRESETS[model.preset]
    set_parts = {name: getattr(model, name) for name in (*PART_CHOICES, "qk_norm", "tied_embeddings", "sliding_window")}
    parts = preset | {name: value for name, value in set_parts.items() if value is not None}
    hidden_size = model.hidden_size or HEAD_DIM * model.depth
    num_heads = model.num_heads or max(1, hidden_size // HEAD_DIM)
    gated = parts["feed_forward"] in GATED
    intermediate_size = model.intermediate_size or round_up(hidden_size * (8 / 3 if gated else 4), 64)
    width_rule = "set" if model.intermediate_size else f"{'8/3' if gated else '4'} x hidden_size, up to a 64"
    derived = {
        "hidden_size": f"{hidden_size} ({'set' if model.hidden_size else f'{HEAD_DIM} x depth {model.depth}'})",
        "num_heads": f"{num_heads} ({'set' if model.num_heads else f'hidden_size / {HEAD_DIM}'})",
        "intermediate_size": f"{intermediate_size} ({width_rule})",
    }
    derived |= {
        name: f"{parts[name]} ({'set' if set_parts[name] is not None else f'preset {model.preset}'})"
        for name in PART_CHOICES
    }
    if model.ngram_sizes:
        derived["ngram_sizes"] = f"{model.ngram_sizes}, {model.ngram_buckets or NGRAM_BUCKETS} vectors each (set)"
    if pair_head:
        parts["segments"] = max(2, parts.get("segments", 0))
    config = ModelConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_layers=model.depth,
        num_heads=num_heads,
        num_kv_heads=model.num_kv_heads,
        intermediate_size=intermediate_size,
        context_length=model.context_length,
        dropout=model.dropout,
        attention_dropout=model.attention_dropout,
        pair_head=pair_head,
        ngram_sizes=tuple(model.ngram_sizes or ()),
        ngram_buckets=model.ngram_buckets or NGRAM_BUCKETS,
        **parts,
    )
    return config, derived


def round_up(value: float, multiple: int) -> int:
    return int(-(-value // multiple) * multiple)
