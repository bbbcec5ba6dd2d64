"""How well a tokenizer fits a text."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from pipeline.tokenization.shards import chunks
from pipeline.tokenization.tokenizer import Tokenizer


def measure(tokenizer: Tokenizer, texts: Iterable[str]) -> dict[str, Any]:
    """Bytes and characters per token, and the shares of unknown tokens and of the ordinary vocabulary that is used."""
    bytes_, characters, tokens, unknown = 0, 0, 0, 0
    used = np.zeros(tokenizer.vocab_size, dtype=bool)
    for chunk in chunks(texts, tokenizer):
        parts = [piece for piece, _ in chunk]
        for ids in tokenizer.encode_batch(parts):
            used[ids] = True
            tokens += len(ids)
            unknown += ids.count(tokenizer.unk_id) if tokenizer.unk_id is not None else 0
        characters += sum(map(len, parts))
        bytes_ += sum(len(piece.encode()) for piece in parts)
    return {
        "bytes": bytes_,
        "characters": characters,
        "tokens": tokens,
        "bytes_per_token": bytes_ / max(tokens, 1),
        "characters_per_token": characters / max(tokens, 1),
        "unknown_share": unknown / max(tokens, 1),
        "vocabulary_used": int(used[~tokenizer.is_special].sum()) / int((~tokenizer.is_special).sum()),
    }


def longest_tokens(tokenizer: Tokenizer, count: int = 20) -> list[str]:
    """The texts of the tokens that stand for most bytes, longest first; equals in the order of their ids."""
    if tokenizer.is_byte_level:
        sizes = tokenizer.token_bytes
    else:
        sizes = np.array([len(tokenizer.decode([token]).encode()) for token in range(tokenizer.vocab_size)])
    order = np.argsort(-sizes, kind="stable")
    return [tokenizer.decode([token]) for token in order[:count].tolist()]
