"""Span corruption: gaps of a text, to be filled in (Raffel et al. 2020, arXiv:1910.10683, section 3.1.4).

text     a b c d e f g h
source   a b <|span-0|> e f g <|span-1|> <|eos|>
target   <|span-0|> c d <|span-1|> h <|eos|>
"""

from dataclasses import dataclass

import numpy as np

from pipeline.common.errors import HallmarkError
from pipeline.tokenization.tokenizer import Tokenizer


@dataclass(frozen=True)
class SpanCorruption:
    """Cuts gaps into rows of one length; sources and targets then have one length each, too.

    Attributes:
        length: tokens of the text that fills a source of `source_length`.
        gaps: how many, and `gap_tokens` in all of them together.
    """

    tokenizer: Tokenizer
    length: int
    gap_tokens: int
    gaps: int

    @classmethod
    def fit(cls, tokenizer: Tokenizer, source_length: int, share: float, mean_span: float) -> "SpanCorruption":
        """The longest text whose source fits into `source_length` tokens.

        Raises:
            HallmarkError: more gaps than the tokenizer has marks for, or no room for one.
        """
        found: SpanCorruption | None = None
        for length in range(2, 2 * source_length + 2):
            gap_tokens = min(max(round(length * share), 1), length - 1)
            gaps = min(max(round(gap_tokens / mean_span), 1), gap_tokens, length - gap_tokens)
            if length - gap_tokens + gaps + 1 <= source_length:
                found = cls(tokenizer, length, gap_tokens, gaps)
        marks = len(tokenizer.sentinel_ids)
        if found is None or found.gaps > marks:
            need = "no room for a gap" if found is None else f"{found.gaps} gaps, and the tokenizer has {marks} marks"
            raise HallmarkError(
                f"sources of {source_length} tokens: {need}",
                where="params.yaml: pretrain",
                fix="lower mask_share or model.context_length, or raise mean_span",
            )
        return found

    @property
    def source_length(self) -> int:
        return self.length - self.gap_tokens + self.gaps + 1

    @property
    def target_length(self) -> int:
        return self.gap_tokens + self.gaps + 1

    def __call__(self, ids: np.ndarray, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """int64 ids (length,) to {"input_ids" (source,), "target_ids" (target,): shifted right, "labels" (target,)}."""
        kept = _cut(self.length - self.gap_tokens, self.gaps, generator)
        gone = _cut(self.gap_tokens, self.gaps, generator)
        borders = np.cumsum(np.stack((kept, gone), axis=1).ravel())[:-1]
        parts = np.split(ids, borders)
        source: list[np.ndarray] = []
        target: list[np.ndarray] = []
        for place, mark in enumerate(self.tokenizer.sentinel_ids[: self.gaps]):
            source += [parts[2 * place], np.array([mark])]
            target += [np.array([mark]), parts[2 * place + 1]]
        end = np.array([self.tokenizer.require("eos")])
        labels = np.concatenate((*target, end)).astype(np.int64)
        start = np.array([self.tokenizer.bos_id])
        return {
            "input_ids": np.concatenate((*source, end)).astype(np.int64),
            "target_ids": np.concatenate((start, labels[:-1])).astype(np.int64),
            "labels": labels,
        }


def _cut(total: int, parts: int, generator: np.random.Generator) -> np.ndarray:
    """`total` as the sum of `parts` random numbers of at least 1, each way of cutting equally likely."""
    borders = np.sort(generator.choice(total - 1, parts - 1, replace=False)) + 1
    return np.diff(np.concatenate(([0], borders, [total])))
