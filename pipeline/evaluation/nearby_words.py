"""What a model of answers has to beat without learning anything: the words that stand nearest to the question's words.

A sliding window in the manner of Richardson, Burges and Renshaw 2013 (MCTest), with words weighted by their rarity.

Legend: M words of a context.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

from pipeline.common.answers import Answer
from pipeline.evaluation.word_shapes import cut_words
from pipeline.tasks.tagging import AlignedText

REACH = 20  # words further away than this do not count


def answer_by_nearby_words(
    contexts: Sequence[str], answers: Sequence[Sequence[Answer]], questions: Sequence[str], unseen: Sequence[str]
) -> list[Answer | None]:
    """Answer each question about an unseen context by the run of words that is nearest to the question's own words.

    Every word of the context that is in the question, too, gives each run of words without such a word its rarity over
    its distance; the run counts by the mean rarity of its own words, so that it is rarely `of the`. Learned from the
    labelled questions are only how many words a run has (the median of the answers) and how rare words are.

    Args:
        contexts, answers: of the questions to learn from.
        questions, unseen: the questions to answer, and their contexts.

    Returns:
        None where a context has no run of words that the question does not have.
    """
    lengths = [len(cut_words(answer.text).ids) for some in answers for answer in some]
    longest = max(1, round(float(np.median(lengths)))) if lengths else 1
    rarity = Rarity(contexts)
    cut = {text: cut_words(text) for text in dict.fromkeys(unseen)}
    return [
        _nearest(context, cut[context], set(words_of(question, cut_words(question))), rarity, longest)
        for question, context in zip(questions, unseen, strict=True)
    ]


class Rarity:
    """The inverse document frequency of words, smoothed as scikit-learn does."""

    def __init__(self, texts: Sequence[str]) -> None:
        different = list(dict.fromkeys(texts))
        self.texts = len(different)
        self.counts = Counter(word for text in different for word in set(words_of(text, cut_words(text))))

    def __call__(self, word: str) -> float:
        return math.log((1 + self.texts) / (1 + self.counts[word])) + 1


def words_of(text: str, words: AlignedText) -> list[str]:
    """The words in lower case; signs are none."""
    found = (text[start:end].lower() for start, end in zip(words.starts_V, words.ends_V, strict=True))
    return [word if word[0].isalnum() else "" for word in found]


def _nearest(text: str, cut: AlignedText, asked: set[str], rarity: Rarity, longest: int) -> Answer | None:
    words = words_of(text, cut)
    free = [bool(word) and word not in asked for word in words]
    rarity_M = np.array([rarity(word) if word else 0.0 for word in words])
    weights_M = np.where([word in asked for word in words], rarity_M, 0.0)
    left_M, right_M = _pull(weights_M), _pull(weights_M[::-1])[::-1]
    best, found = -1.0, None
    for first in range(len(words)):
        if not free[first]:
            continue
        last = first
        while last + 1 < min(first + longest, len(words)) and free[last + 1]:
            last += 1
        score = float((left_M[first] + right_M[last]) * rarity_M[first : last + 1].mean())
        score = round(score, 9)  # equals stay equal whatever the order of the sums
        if score > best:
            best, found = score, (first, last)
    if found is None:
        return None
    start, end = int(cut.starts_V[found[0]]), int(cut.ends_V[found[1]])
    return Answer(start, text[start:end])


def _pull(weights_M: np.ndarray) -> np.ndarray:
    """For each place the sum of what stands before it, each weight over its distance."""
    nearness = 1 / np.arange(1, REACH + 1)
    return np.convolve(weights_M, np.append(0.0, nearness))[: len(weights_M)] if len(weights_M) else weights_M
