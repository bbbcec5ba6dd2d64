"""Figures of written texts beside the true ones, all from counts per text: BLEU, chrF and ROUGE, each from 0 to 100.

BLEU (Papineni et al. 2002) and chrF (Popović 2015) are of all texts together, and sacrebleu counts for them (Post 2018,
arXiv:1804.08771); ROUGE (Lin 2004) is the mean over the texts of F1, without stemming. Words of ROUGE are runs of
letters and digits, and single characters of scripts that put no spaces between words.

Legend: N texts, S samples (one, or many resamples at once), K counts.
"""

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from pipeline.common.figures import OF_100
from pipeline.common.scripts import KANA_AND_HAN, UNSPACED
from pipeline.tasks.metrics import Figures

FIGURES = OF_100
WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")
BLEU_ORDER, CHRF_ORDER, CHRF_BETA = 4, 6, 2
BLEU_COUNTS, CHRF_COUNTS = 2 + 2 * BLEU_ORDER, 3 * CHRF_ORDER


def count_texts(truth: Sequence[str], written: Sequence[str]) -> np.ndarray:
    """float64 (N, K): what the figures need of each text, for sums over texts; of one text or more."""
    parts = [
        [metric._extract_corpus_statistics(list(written), [list(truth)]) for metric in _sacrebleu(truth)],
        [[[*_rouge(right, found), 1.0] for right, found in zip(truth, written, strict=True)]],
    ]
    return np.concatenate([np.array(part, dtype=np.float64) for group in parts for part in group], axis=1)


def text_figures(counts_SK: np.ndarray) -> Figures:
    """Every figure of `FIGURES`, float64 (S,), from sums over texts."""
    bleu, chrf, rouge = np.split(counts_SK, [BLEU_COUNTS, BLEU_COUNTS + CHRF_COUNTS], axis=-1)
    means = {f"rouge_{name}": 100 * _quotient(rouge[..., place], rouge[..., 3]) for place, name in enumerate("12l")}
    return {"chrf": _chrf(chrf), "bleu": _bleu(bleu), **means}


def signatures(truth: Sequence[str]) -> dict[str, str]:
    """How sacrebleu says what it counted, with its version."""
    bleu, chrf = _sacrebleu(truth)
    for metric in (bleu, chrf):
        metric._cache_references([list(truth[:1])])  # it then knows how many references a text has
    return {"bleu": str(bleu.get_signature()), "chrf": str(chrf.get_signature())}


def _sacrebleu(truth: Sequence[str]) -> tuple[Any, Any]:
    """BLEU as `13a` cuts words; single characters (`zh`) where the true texts are mostly Han or kana."""
    letters = re.findall(r"[^\W\d_]", "".join(truth))
    unspaced = sum(1 for letter in letters if _is_unspaced(letter))
    return BLEU(tokenize="zh" if 2 * unspaced > len(letters) else "13a", force=True), CHRF()


@cache
def _is_unspaced(letter: str) -> bool:
    return bool(re.match(f"[{KANA_AND_HAN}]", letter))


def _bleu(counts_SK: np.ndarray) -> np.ndarray:
    """From the words written and true, the n-grams that are right, and those written; `exp` smoothing as in mteval."""
    written, true, right, total = np.split(counts_SK, [1, 2, 2 + BLEU_ORDER], axis=-1)
    smoothing = 2.0 ** np.cumsum((right == 0) & (total > 0), axis=-1)
    precisions = _quotient(np.where(right > 0, right, 1 / smoothing), total)
    with np.errstate(divide="ignore"):
        mean = np.exp(np.log(precisions).mean(axis=-1))
    brevity = np.exp(np.minimum(0.0, 1 - _quotient(true, np.maximum(written, 1e-300))))[..., 0]
    return 100 * brevity * mean * right.any(axis=-1)


def _chrf(counts_SK: np.ndarray) -> np.ndarray:
    """From the n-grams written, true and right of each order; orders that one side has none of are left out."""
    written, true, right = (counts_SK[..., place::3] for place in range(3))
    orders = ((written > 0) & (true > 0)).astype(np.float64)
    count = orders.sum(axis=-1)
    precision, recall = (_quotient((_quotient(right, of) * orders).sum(axis=-1), count) for of in (written, true))
    return 100 * _quotient((1 + CHRF_BETA**2) * precision * recall, CHRF_BETA**2 * precision + recall)


def _rouge(truth: str, written: str) -> list[float]:
    """F1 of words, of pairs of words, and of the longest common subsequence."""
    right, found = (WORD.findall(text.lower()) for text in (truth, written))
    scores = []
    for order in (1, 2):
        grams = [Counter(zip(*(words[place:] for place in range(order)), strict=False)) for words in (right, found)]
        scores.append(_f1((grams[0] & grams[1]).total(), grams[0].total(), grams[1].total()))
    return [*scores, _f1(longest_common(right, found), len(right), len(found))]


def _f1(hits: int, true: int, written: int) -> float:
    return 2 * hits / (true + written) if hits else 0.0


def longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """The length of the longest common subsequence, all places of `first` at once in the bits of a number
    (Hyyrö 2004, Bit-parallel LCS-length computation revisited).
    """
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    full = (1 << len(first)) - 1
    state = full
    for word in second:
        both = state & places.get(word, 0)
        state = (state + both | state - both) & full
    return len(first) - state.bit_count()


def _quotient(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    part, whole = np.broadcast_arrays(part, whole)
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)
