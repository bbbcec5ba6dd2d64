"""Tokens and texts by chance, for benchmarks of speed: a tokenizer of any vocabulary, and text of known length."""

from typing import Any

import numpy as np

FIRST_CHARACTER = 0x20000  # of 63,488 in a row, most of them Chinese


def make_tokenizer(vocab_size: int) -> Any:
    """A tokenizer of exactly `vocab_size` tokens (293 or more), of which one stands for each of its characters."""
    from pipeline.tokenization.training import train_tokenizer

    characters = "".join(chr(FIRST_CHARACTER + place) for place in range(vocab_size))
    return train_tokenizer([characters, characters], "characters", vocab_size)


def make_shard(tokenizer: Any, count: int, seed: int = 0) -> Any:
    """One document of `count` tokens."""
    from pipeline.tokenization.shards import TokenShard

    tokens = np.random.default_rng(seed).integers(first_text_token(tokenizer), tokenizer.vocab_size, count)
    return TokenShard(tokens.astype(np.uint16), np.array([0, count]), tokenizer.hash, 0)


def make_texts(tokenizer: Any, lengths: np.ndarray, seed: int = 0) -> list[str]:
    """Texts of so many tokens each."""
    generator = np.random.default_rng(seed)
    most = tokenizer.vocab_size - first_text_token(tokenizer)
    return [
        "".join(chr(FIRST_CHARACTER + place) for place in generator.integers(0, most, length)) for length in lengths
    ]


def first_text_token(tokenizer: Any) -> int:
    """The tokens before it are special ones and bytes."""
    return int(tokenizer.encode(chr(FIRST_CHARACTER))[0])


def draw_windows(tokens: np.ndarray, rows: int, context: int, device: Any) -> tuple[Any, Any]:
    """Windows at random places: (ids, successors), int64 (rows, context). To a GPU they are copied while it works."""
    import torch

    starts = torch.randint(len(tokens) - context, (rows,)).tolist()
    windows = torch.from_numpy(np.stack([tokens[start : start + context + 1] for start in starts]).astype(np.int64))
    ids, labels = windows[:, :-1], windows[:, 1:]
    if device.type != "cuda":
        return ids, labels
    return ids.pin_memory().to(device, non_blocking=True), labels.pin_memory().to(device, non_blocking=True)
