"""How well a tokenizer fits a text."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from pipeline.tokenization.shards import chunks
from pipeline.tokenization.tokenizer import SPECIAL_TOKENS, Tokenizer


def measure(tokenizer: Tokenizer, texts: Iterable[str]) -> dict[str, Any]:
    """Bytes and characters per token, and the share of the ordinary vocabulary that the texts use."""
    bytes_, characters, tokens = 0, 0, 0
    used = np.zeros(tokenizer.vocab_size, dtype=bool)
    for chunk in chunks(texts):
        parts = [piece for piece, _ in chunk]
        for ids in tokenizer.encode_batch(parts):
            used[ids] = True
            tokens += len(ids)
        characters += sum(map(len, parts))
        bytes_ += sum(len(piece.encode()) for piece in parts)
    return {
        "bytes": bytes_,
        "characters": characters,
        "tokens": tokens,
        "bytes_per_token": bytes_ / max(tokens, 1),
        "characters_per_token": characters / max(tokens, 1),
        "vocabulary_used": int(used.sum()) / (tokenizer.vocab_size - len(SPECIAL_TOKENS)),
    }


def longest_tokens(tokenizer: Tokenizer, count: int = 20) -> list[str]:
    """The texts of the tokens that stand for most bytes, longest first; equals in the order of their ids."""
    order = np.argsort(-tokenizer.token_bytes, kind="stable")
    return [tokenizer.decode([token]) for token in order[:count].tolist()]
