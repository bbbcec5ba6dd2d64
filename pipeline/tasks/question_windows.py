"""Questions and their contexts as rows of tokens: [bos] question SEP part of the context SEP.

A context that does not fit is read in overlapping windows, each behind the whole question. The question comes first, so
that a decoder, which sees nothing behind a token, reads the context knowing what is asked. "No answer here" has a place
of its own in each row: bos (Devlin et al. 2019, section 4.3), and in a decoder the last SEP, the only token that sees
all of the row.

Legend: N questions, W windows, V visible tokens of a context.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.common.answers import Answer
from pipeline.tasks.tagging import AlignedText, encode_texts
from pipeline.tasks.text_windows import cut_windows
from pipeline.tokenization.tokenizer import Tokenizer

LEAST_TOKENS = 16  # of a row: three special ones, a few of the question, and a few of the context


class QuestionWindow(NamedTuple):
    """Tokens `start` to `stop` (excluded) of the context of a question, behind `before` other tokens of the row."""

    question: int
    start: int
    stop: int
    before: int


class AskedTexts:
    """The rows of questions.

    Args:
        questions, contexts: (N,) each.
        tokenizer: the model's own.
        max_tokens: of a row, `LEAST_TOKENS` or more; a question keeps half of it at most.
        causal: whether the network sees only what stands before a token.

    Attributes:
        texts, contexts: (N,), the contexts, plain and aligned; questions about one context share it.
        questions_cut: how many questions were longer than half a row.
        windows: (W,), those of a question follow one another; each question has one at least.
        lengths: int64 (W,), tokens of each row.
    """

    def __init__(
        self, questions: Sequence[str], contexts: Sequence[str], tokenizer: Tokenizer, max_tokens: int, causal: bool
    ) -> None:
        texts = list(dict.fromkeys(contexts))
        aligned = dict(zip(texts, encode_texts(texts, tokenizer), strict=True))
        self.texts = list(contexts)
        self.contexts = [aligned[text] for text in contexts]
        whole = tokenizer.encode_batch(list(questions))
        self.questions = [ids[: max_tokens // 2] for ids in whole]
        self.questions_cut = sum(len(ids) > max_tokens // 2 for ids in whole)
        self.bos_id, self.sep_id = tokenizer.bos_id, tokenizer.separator_id
        self.windows = list(self._cut(max_tokens, causal))
        self.lengths = np.array([each.before + each.stop - each.start + 1 for each in self.windows], dtype=np.int64)
        self.causal = causal

    def _cut(self, max_tokens: int, causal: bool) -> Iterator[QuestionWindow]:
        for number, (ids, context) in enumerate(zip(self.questions, self.contexts, strict=True)):
            before = len(ids) + 2
            for window in cut_windows(len(context.ids), max_tokens - before - 1, causal):
                yield QuestionWindow(number, window.start, window.stop, before)

    def row(self, window: int) -> list[int]:
        """The ids of a window's row."""
        number, start, stop, _ = self.windows[window]
        part = self.contexts[number].ids[start:stop]
        return [self.bos_id, *self.questions[number], self.sep_id, *part, self.sep_id]

    def no_answer_place(self, window: int) -> int:
        """Where in the row "no answer here" is said."""
        return int(self.lengths[window]) - 1 if self.causal else 0

    def visible(self, window: int) -> tuple[slice, np.ndarray]:
        """The visible tokens of the context that the window has, and their places in the row, int64."""
        number, start, stop, before = self.windows[window]
        places_V = self.contexts[number].places_V
        first, last = np.searchsorted(places_V, [start, stop])
        return slice(int(first), int(last)), places_V[first:last] - start + before

    def has(self, window: int, tokens: tuple[int, int]) -> bool:
        """Whether a window has these two visible tokens of its context."""
        own, _ = self.visible(window)
        return own.start <= tokens[0] and tokens[1] < own.stop

    def targets(self, window: int, tokens: tuple[int, int] | None) -> tuple[int, int]:
        """Where in the row the answer begins and ends: the places of its first and last visible token if the window
        has both, else twice that of no answer.
        """
        if tokens is None or not self.has(window, tokens):
            return self.no_answer_place(window), self.no_answer_place(window)
        own, places = self.visible(window)
        return int(places[tokens[0] - own.start]), int(places[tokens[1] - own.start])

    def answer(self, question: int, first: int, last: int) -> Answer:
        """What stands from the first to the last of these visible tokens of a question's context."""
        context = self.contexts[question]
        start, end = int(context.starts_V[first]), int(context.ends_V[first : last + 1].max())
        return Answer(start, self.texts[question][start:end])


def answer_tokens(context: AlignedText, answer: Answer) -> tuple[int, int] | None:
    """The first and the last visible token that share a character with an answer; None: none does."""
    own = np.flatnonzero((context.ends_V > answer.start) & (context.starts_V < answer.end))
    return (int(own[0]), int(own[-1])) if len(own) else None


def best_span(start_V: np.ndarray, end_V: np.ndarray, longest: int) -> tuple[float, tuple[int, int]] | None:
    """The span with the largest sum of the scores of its first and its last token: that sum, and the two tokens.

    Args:
        start_V, end_V: scores, float64, of the visible tokens of a window; -inf where no span begins or ends.
        longest: tokens of a span at most.

    Returns:
        None where there is no span; the first of equals.
    """
    if not len(start_V):
        return None
    width = min(longest, len(end_V))
    padded = np.append(end_V, np.full(width - 1, -np.inf))
    sums = start_V[:, None] + np.lib.stride_tricks.sliding_window_view(padded, width)
    first, more = divmod(int(sums.argmax()), width)
    best = float(sums[first, more])
    return (best, (first, first + more)) if np.isfinite(best) else None
