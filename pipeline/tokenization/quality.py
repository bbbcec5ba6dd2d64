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
        for ids in tokenizer.encode_batch(chunk):
            used[ids] = True
            tokens += len(ids)
        characters += sum(map(len, chunk))
        bytes_ += sum(len(text.encode()) for text in chunk)
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
