"""What a model has to beat on the same labels: the majority class, and TF-IDF with logistic regression."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from pipeline.common.scripts import KANA_AND_HAN

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


def predict_tfidf(texts: Sequence[str], labels: Sequence[str], unseen: Sequence[str]) -> list[str]:
    """Learn logistic regression on TF-IDF of 1- and 2-grams from labelled texts, and label the unseen ones.

    One thread, and rows in the given order: the same texts always give the same labels.
    """
    regression = LogisticRegression(C=10.0, max_iter=1000)
    with threadpool_limits(limits=1):
        vectorizer, features = learn_features(texts)
        regression.fit(features, np.asarray(labels, dtype=str))
        return [str(label) for label in regression.predict(vectorizer.transform(unseen))]


def learn_features(texts: Sequence[str]) -> tuple[TfidfVectorizer, Any]:
    """TF-IDF of the 1- and 2-grams that two texts share; of single signs where texts hold no shared words (emoji)."""
    for pattern in (WORD, SIGN):
        vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2, token_pattern=pattern)
        with suppress(ValueError):  # that is: no feature is left
            return vectorizer, vectorizer.fit_transform(texts)
    vectorizer = TfidfVectorizer(analyzer="char")
    return vectorizer, vectorizer.fit_transform(texts)
