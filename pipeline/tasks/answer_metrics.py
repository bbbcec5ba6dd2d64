"""Exact match and F1 of answers, as SQuAD's official script (version 2.0) defines them, and F1 over characters.

Rajpurkar et al. 2016 (arXiv:1606.05250), section 6.1; Rajpurkar, Jia and Liang 2018 (arXiv:1806.03822). Figures are
shares (0 to 1), not percent. The official script parts words at spaces only; where a script has none, `character_f1`
takes each of its characters as a word and no punctuation at all, as MLQA's evaluation does (Lewis et al. 2020,
arXiv:1910.07475). CMRC's (Cui et al. 2019, arXiv:1810.07366) has the same words, and counts the longest run that both
answers have.

Legend: N questions, S samples (one, or many resamples at once).
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from pipeline.common.answers import Answer
from pipeline.common.scripts import UNSPACED
from pipeline.tasks.metrics import Figures

FIGURES = ("exact_match", "f1", "character_f1")
ANSWERABLE, UNANSWERABLE = "answerable", "unanswerable"
OUTCOMES = RIGHT, PARTLY, WRONG, NO_ANSWER = "right", "partly right", "wrong", "no answer"
PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b")
UNSPACED_CHARACTER = re.compile(f"[{UNSPACED}]")

Cut = Callable[[str], list[str]]


def normalize(answer: str) -> str:
    """In lower case, without ASCII punctuation and English articles, single spaces between words."""
    return " ".join(ARTICLES.sub(" ", answer.lower().translate(PUNCTUATION)).split())


def words(answer: str) -> list[str]:
    """The words that the official F1 compares."""
    return normalize(answer).split()


def words_and_characters(answer: str) -> list[str]:
    """`words`, without any punctuation, and with each character of a script without spaces as a word of its own."""
    spoken = "".join(sign for sign in normalize(answer) if not unicodedata.category(sign).startswith("P"))
    return UNSPACED_CHARACTER.sub(r" \g<0> ", spoken).split()


def exact_match(predicted: str, truth: str) -> float:
    return float(normalize(predicted) == normalize(truth))


def f1(predicted: str, truth: str, cut: Cut = words) -> float:
    """The harmonic mean of precision and recall of the words that both have; of nothing with nothing it is 1."""
    found, right = cut(predicted), cut(truth)
    if not found or not right:
        return float(found == right)
    shared = sum((Counter(found) & Counter(right)).values())
    return 2 * shared / (len(found) + len(right))


def score(predicted: str, truths: Sequence[str]) -> tuple[float, float, float]:
    """`FIGURES` of one answer ("": none), each by the true answer that it fits best.

    True answers of which nothing is left when they are normalised do not count; without any, only "" is right.
    """
    right = [truth for truth in truths if normalize(truth)] or [""]
    return (
        max(exact_match(predicted, truth) for truth in right),
        max(f1(predicted, truth) for truth in right),
        max(f1(predicted, truth, words_and_characters) for truth in right),
    )


def score_all(predicted: Sequence[Answer | None], truths: Sequence[Sequence[Answer]]) -> np.ndarray:
    """float64 (N, 4): `FIGURES` of each question, and 1 for the question itself; None is no answer."""
    rows = [
        (*score(found.text if found else "", [answer.text for answer in right]), 1.0)
        for found, right in zip(predicted, truths, strict=True)
    ]
    return np.array(rows, dtype=np.float64).reshape(-1, len(FIGURES) + 1)


def answer_figures(sums_S4: np.ndarray) -> Figures:
    """The mean of each of `FIGURES`, float64 (S,), from sums over questions of what `score_all` gives."""
    questions_S = np.maximum(sums_S4[..., -1], 1.0)
    return {name: sums_S4[..., place] / questions_S for place, name in enumerate(FIGURES)}


def best_threshold(leads_N: np.ndarray, answered_N: np.ndarray, nothing_N: np.ndarray) -> float:
    """The threshold with the best mean figure when a question is answered if its lead is above it.

    That is the search for "best_f1_thresh" in SQuAD's official script (version 2.0), but the threshold lies in the
    middle between two leads, and of equals it is the one nearest to 0, 0 itself included.

    Args:
        leads_N: by how much the best answer is above no answer, float64; -inf where there is none to give.
        answered_N, nothing_N: the figure of each question if it is answered, and if it is not.
    """
    edges = np.unique(leads_N[np.isfinite(leads_N)])
    if not len(edges):
        return 0.0
    candidates_K = np.concatenate([[0.0, edges[0] - 1, edges[-1] + 1], (edges[:-1] + edges[1:]) / 2])
    order = np.argsort(leads_N, kind="stable")
    gains_N = np.append(np.cumsum((answered_N - nothing_N)[order][::-1])[::-1], 0.0)  # of answering it and all above
    totals_K = gains_N[np.searchsorted(leads_N[order], candidates_K, side="right")].round(9)  # sums of equals are equal
    best_K = candidates_K[totals_K == totals_K.max()]
    return float(best_K[np.abs(best_K).argmin()])


def are_unspaced(answers: Sequence[Sequence[Answer]]) -> bool:
    """Whether most answers have a character of a script without spaces."""
    marks = [bool(UNSPACED_CHARACTER.search(answer.text)) for some in answers for answer in some]
    return 2 * sum(marks) > len(marks)


def outcomes(predicted: Sequence[Answer | None], truths: Sequence[Sequence[Answer]]) -> list[tuple[str, str]]:
    """Whether each question has an answer, and what became of it: one of `OUTCOMES`.

    Partly right is what shares a word, or a character of a script without spaces, with a true answer.
    """
    found = []
    for answer, right in zip(predicted, truths, strict=True):
        exact, _, shared = score(answer.text if answer else "", [true.text for true in right])
        given = (RIGHT if exact else PARTLY if shared else WRONG) if answer else NO_ANSWER
        found.append((ANSWERABLE if right else UNANSWERABLE, given))
    return found
