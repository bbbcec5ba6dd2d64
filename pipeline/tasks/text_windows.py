"""A long text as overlapping windows, so that nothing is cut: each token is taken from where it has most context."""

from itertools import pairwise
from typing import NamedTuple

from pipeline.common.errors import HallmarkError
from pipeline.model.config import ModelConfig

OVERLAP = 4  # a quarter of a window is shared with the next


class Window(NamedTuple):
    """Tokens `start` to `stop` of a text are seen; of these, `first` to `last` are taken from here (ends excluded)."""

    start: int
    stop: int
    first: int
    last: int


def is_causal(config: ModelConfig) -> bool:
    return config.family == "decoder"


def refuse_window(size: int, least: int, config: ModelConfig) -> None:
    """Raises HallmarkError if a window of `size` tokens is too small, or larger than the network sees."""
    if not least <= size <= config.context_length:
        raise HallmarkError(
            f"a window of {size} tokens: the model takes {least} to {config.context_length}",
            where="params.yaml: finetune.max_tokens",
            fix="set it to a number between, or raise model.context_length",
        )


def cut_windows(length: int, size: int, causal: bool = False) -> list[Window]:
    """The windows of a text of `length` tokens; each token is taken from exactly one of them.

    That is the window in which the nearer end is farthest away, where the text's own ends do not count; in a causal
    network, which sees nothing behind a token, the one that begins farthest before it. The last window ends with the
    text.

    Args:
        length: tokens of the text; one window even for none.
        size: tokens of a window.
        causal: whether the network sees only what stands before.
    """
    stride = size - size // OVERLAP
    starts = [0]
    while starts[-1] + size < length:
        starts.append(min(starts[-1] + stride, length - size))
    bounds = [0]
    for before, start in pairwise(starts):
        bounds.append(before + size if causal else (start + before + size + 1) // 2)
    bounds.append(length)
    return [
        Window(start, min(start + size, length), bounds[place], bounds[place + 1]) for place, start in enumerate(starts)
    ]
