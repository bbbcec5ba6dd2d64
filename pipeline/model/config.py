"""The shape of a network, derived from one dial."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from pipeline.common.errors import HallmarkError, Problems, allowed
from pipeline.common.params import Model

HEAD_DIM = 64


@dataclass(frozen=True)
class ModelConfig:
    """All that decides a network's parameters and what it computes."""

    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    context_length: int
    tied_embeddings: bool
    dropout: float
    family: str = "decoder"
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        problems = Problems("model")
        if self.hidden_size % self.num_heads:
            problems.add(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        elif self.head_dim % 2:
            problems.add(f"hidden_size / num_heads = {self.head_dim} is odd; rotary positions turn pairs")
        problems.raise_if_any(fix="change model.hidden_size or model.num_heads in params.yaml")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        names = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - names):
            raise HallmarkError(
                f"unknown keys {', '.join(unknown)}; {allowed(sorted(names))}", where="config.json: model"
            )
        return cls(**values)


def derive_config(model: Model, vocab_size: int) -> tuple[ModelConfig, dict[str, str]]:
    """Derive the whole shape from `model.depth`; a width that the user set is kept.

    Returns:
        The configuration, and for each derived value its formula, to be printed and recorded.
    """
    hidden_size = model.hidden_size or HEAD_DIM * model.depth
    num_heads = model.num_heads or max(1, hidden_size // HEAD_DIM)
    intermediate_size = model.intermediate_size or round_up(8 * hidden_size / 3, 64)
    width_rule = "set" if model.intermediate_size else "8/3 x hidden_size, up to a 64"
    derived = {
        "hidden_size": f"{hidden_size} ({'set' if model.hidden_size else f'{HEAD_DIM} x depth {model.depth}'})",
        "num_heads": f"{num_heads} ({'set' if model.num_heads else f'hidden_size / {HEAD_DIM}'})",
        "intermediate_size": f"{intermediate_size} ({width_rule})",
    }
    config = ModelConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_layers=model.depth,
        num_heads=num_heads,
        intermediate_size=intermediate_size,
        context_length=model.context_length,
        tied_embeddings=model.tied_embeddings,
        dropout=model.dropout,
    )
    return config, derived


def round_up(value: float, multiple: int) -> int:
    return int(-(-value // multiple) * multiple)
