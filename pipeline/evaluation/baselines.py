"""What a model has to beat on the same labels: the majority class, and TF-IDF with logistic regression."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import hstack
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from pipeline.common.scripts import KANA_AND_HAN
from pipeline.tasks.rows import Text

# Words of two letters or more, scikit-learn's own choice; and, of scripts that put no spaces between words (kana, Han),
# single characters, so that 1-2-grams say something in Chinese and Japanese, too.
WORD = rf"[{KANA_AND_HAN}]|[^\W{KANA_AND_HAN}]{{2,}}"
SIGN = r"\S"


def majority_label(drawn: Sequence[str], all_training: Sequence[str]) -> str:
    """The most frequent of the drawn labels; among equals the one most frequent in the whole training split.

    A draw of the same number from each class leaves only equals.
    """
    drawn_counts = pd.Series(drawn).value_counts()
    all_counts = pd.Series(all_training).value_counts()
    return max(sorted(drawn_counts.index), key=lambda label: (drawn_counts[label], all_counts.get(label, 0)))


def majority_of_each(learned_MC: np.ndarray) -> np.ndarray:
    """bool (C,): which labels more than half of the texts have, given bool (M, C)."""
    return 2 * learned_MC.sum(axis=0) > len(learned_MC)


def predict_tfidf(texts: Sequence[Text], labels: Sequence[str], unseen: Sequence[Text]) -> list[str]:
    """Learn logistic regression on TF-IDF of 1- and 2-grams from labelled texts or pairs, and label the unseen ones.

    One thread, and rows in the given order: the same texts always give the same labels.
    """
    with threadpool_limits(limits=1):
        learned, asked = tfidf_features(texts, unseen)
        return [str(label) for label in _regression().fit(learned, np.asarray(labels, dtype=str)).predict(asked)]


def predict_tfidf_of_each(texts: Sequence[Text], learned_MC: np.ndarray, unseen: Sequence[Text]) -> np.ndarray:
    """The same with any number of labels for each text: one regression for each label, against all texts without it.

    Args:
        learned_MC: bool, which labels the M texts have.

    Returns:
        bool (N, C), which labels the unseen ones get. A label that all texts or none have is given to all or none.
    """
    chosen_NC = np.zeros((len(unseen), learned_MC.shape[1]), dtype=bool)
    with threadpool_limits(limits=1):
        learned, asked = tfidf_features(texts, unseen)
        for place, has_M in enumerate(learned_MC.T):
            is_open = has_M.any() and not has_M.all()
            chosen_NC[:, place] = _regression().fit(learned, has_M).predict(asked) if is_open else has_M[0]
    return chosen_NC


def _regression() -> LogisticRegression:
    return LogisticRegression(C=10.0, max_iter=1000)


def tfidf_features(texts: Sequence[Text], unseen: Sequence[Text]) -> tuple[Any, Any]:
    """The features that `texts` have, of both; of pairs those of the first text beside those of the second."""
    parts = []
    for learned, asked in zip(_columns(texts), _columns(unseen), strict=True):
        vectorizer, features = learn_features(learned)
        parts.append((features, vectorizer.transform(asked)))
    if len(parts) == 1:
        return parts[0]
    learned_parts, asked_parts = zip(*parts, strict=True)
    return hstack(learned_parts, format="csr"), hstack(asked_parts, format="csr")


def _columns(texts: Sequence[Text]) -> list[list[str]]:
    """All texts; of pairs all first ones and all second ones."""
    if isinstance(texts[0], str):
        return [[str(text) for text in texts]]
    return [[pair[place] for pair in texts] for place in (0, 1)]


def learn_features(texts: Sequence[str]) -> tuple[TfidfVectorizer, Any]:
    """TF-IDF of the 1- and 2-grams that two texts share; of single signs where texts hold no shared words (emoji)."""
    for pattern in (WORD, SIGN):
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2, token_pattern=pattern)
        with suppress(ValueError):  # that is: no feature is left
            return vectorizer, vectorizer.fit_transform(texts)
    vectorizer = TfidfVectorizer(analyzer="char")
    return vectorizer, vectorizer.fit_transform(texts)
