"""Masked language modelling: which tokens are hidden, and behind what (Devlin et al. 2019, arXiv:1810.04805).

Masks are drawn anew every time a text is seen ("dynamic", Liu et al. 2019, arXiv:1907.11692).

Legend: T positions, M masked ones.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pipeline.tokenization.tokenizer import Tokenizer

NO_TARGET = -1  # a label that counts nowhere
REPLACED, RANDOM = 0.8, 0.1  # of the chosen tokens; the rest stays as it is


@dataclass(frozen=True)
class Masking:
    """Hides tokens of a row.

    Attributes:
        tokenizer: has the mask token, and says which tokens are special and which begin a word.
        share: of the row's positions, the number hidden: `count`, the same for every row.
        whole_words: hide all tokens of a word or none.
    """

    tokenizer: Tokenizer
    share: float
    whole_words: bool

    def count(self, length: int) -> int:
        """M, the tokens hidden in a row of `length` positions."""
        return max(1, round(self.share * length))

    def __call__(self, ids_T: np.ndarray, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """int64 ids to {"input_ids" (T,), "masked_positions" (M,), "labels" (M,)}.

        Special tokens are never hidden. Where there are fewer than M others, the labels left over are `NO_TARGET`.
        """
        count = self.count(len(ids_T))
        chosen = self._choose(ids_T, count, generator)
        positions_M = np.zeros(count, dtype=np.int64)
        labels_M = np.full(count, NO_TARGET, dtype=np.int64)
        positions_M[: len(chosen)], labels_M[: len(chosen)] = chosen, ids_T[chosen]
        return {"input_ids": self._hide(ids_T, chosen, generator), "masked_positions": positions_M, "labels": labels_M}

    def _choose(self, ids_T: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
        candidates = np.flatnonzero(~self.tokenizer.is_special[ids_T])
        if not self.whole_words:
            return np.sort(generator.permutation(candidates)[:count])
        begins = self.tokenizer.starts_word[ids_T[candidates]] | (np.diff(candidates, prepend=-2) > 1)
        words = np.split(candidates, np.flatnonzero(begins)[1:]) if len(candidates) else []
        chosen: list[int] = []
        for place in generator.permutation(len(words)):
            if len(chosen) + len(words[place]) <= count:
                chosen.extend(words[place])
        return np.sort(np.array(chosen, dtype=np.int64))

    def _hide(self, ids_T: np.ndarray, chosen: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        hidden, fate = ids_T.copy(), generator.random(len(chosen))
        hidden[chosen[fate < REPLACED]] = self.tokenizer.require("mask")
        at_random = chosen[(fate >= REPLACED) & (fate < REPLACED + RANDOM)]
        hidden[at_random] = generator.choice(self._ordinary, len(at_random))
        return hidden

    @cached_property
    def _ordinary(self) -> np.ndarray:
        return np.flatnonzero(~self.tokenizer.is_special)


@dataclass(frozen=True)
class SentencePairs:
    """Next-sentence prediction: does the second text go on where the first ends? Half of them are from elsewhere.

    A row is `bos` A `sep` B `sep`, filled up with `pad`.

    Attributes:
        tokens: of the shard, to draw other texts from.
        windows: int64 (windows, 2) of `document_windows`; the other text is drawn from one of them.
        length: T.
    """

    tokenizer: Tokenizer
    masking: Masking
    tokens: np.ndarray
    windows: np.ndarray
    length: int

    def __call__(self, ids: np.ndarray, generator: np.random.Generator) -> dict[str, np.ndarray]:
        """One window's ids to the arrays of `Masking`, and "segments", "attention_mask" (T,) and "goes_on" ()."""
        cut = int(generator.integers(1, len(ids)))
        first, second = ids[:cut], ids[cut:]
        goes_on = bool(generator.random() < 0.5)
        if not goes_on:
            second = self._other(ids, len(second), generator)
        bos, sep = self.tokenizer.bos_id, self.tokenizer.require("sep")
        row = np.concatenate(([bos], first, [sep], second, [sep]))
        ids_T = np.full(self.length, self.tokenizer.pad_id, dtype=np.int64)
        segments_T, visible_T = np.zeros(self.length, dtype=np.int64), np.arange(self.length) < len(row)
        ids_T[: len(row)] = row
        segments_T[len(first) + 2 : len(row)] = 1
        masked = self.masking(ids_T, generator)
        return {
            **masked,
            "segments": segments_T,
            "attention_mask": visible_T,
            "goes_on": np.array(int(goes_on), dtype=np.int64),
        }

    def _other(self, ids: np.ndarray, length: int, generator: np.random.Generator) -> np.ndarray:
        """The beginning of another window; a text that happens to be the same is drawn again."""
        for _ in range(10):
            first, last = self.windows[generator.integers(len(self.windows))]
            other = self.tokens[first : min(last, first + length)].astype(np.int64)
            if not np.array_equal(other, ids[-len(other) :]) and not np.array_equal(other, ids[: len(other)]):
                return other
        return other
