"""The baselines learn from the drawn labels alone, and always the same."""

import re

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from threadpoolctl import threadpool_limits

from pipeline.evaluation.baselines import (
    WORD,
    learn_features,
    majority_label,
    majority_of_each,
    predict_tfidf,
    predict_tfidf_of_each,
)


def test_the_majority_is_the_most_frequent_of_the_drawn_labels() -> None:
    assert majority_label(["a", "b", "b"], ["a"] * 9) == "b"


def test_among_equals_the_whole_training_split_decides_and_then_the_name() -> None:
    assert majority_label(["a", "b"], ["a", "b", "b"]) == "b"
    assert majority_label(["b", "a"], []) == "a"


def test_words_are_scikit_learns_where_words_have_spaces() -> None:
    text = "Return the k-nearest x_1 of a Tensor, e.g. naïve Straße 42 (see  below)."
    assert re.findall(WORD, text) == re.findall(TfidfVectorizer().get_params()["token_pattern"], text)


def test_scripts_without_spaces_are_cut_into_characters() -> None:
    assert re.findall(WORD, "用pandas读取文件 ファイル") == [*"用", "pandas", *"读取文件ファイル"]


TEXTS = ["the apple is red", "a red apple", "the saw is sharp", "a sharp saw"] * 3
LABELS = ["fruit", "fruit", "tool", "tool"] * 3


def test_it_learns_what_there_is_to_learn_in_any_number_of_threads() -> None:
    unseen = ["apple", "the sharp one", "red red"]
    found = []
    for threads in (1, 2):
        with threadpool_limits(limits=threads):
            found.append(predict_tfidf(TEXTS, LABELS, unseen))
    assert found == [["fruit", "tool", "fruit"]] * 2


@pytest.mark.parametrize(
    "texts",
    [
        ["苹果很红", "红苹果", "锯子很快", "快锯子"],
        ["🍎🍏", "🍏🍎", "🔨🪚", "🪚🔨"],
        ["apple", "pear", "saw", "drill"],
        ["?", "!", "§", "%"],
    ],
)
def test_any_script_has_features(texts: list[str]) -> None:
    labels = ["fruit", "fruit", "tool", "tool"]
    assert predict_tfidf(texts, labels, texts) == labels


def test_features_are_words_that_two_texts_share() -> None:
    vectorizer, features = learn_features(["common rare", "common other"])
    assert vectorizer.get_feature_names_out().tolist() == ["common"]
    assert np.allclose(features.toarray(), 1.0)


def test_both_texts_of_a_pair_are_seen_and_told_apart() -> None:
    pairs = [("red apple", "sharp saw"), ("sharp saw", "red apple")] * 4
    labels = ["fruit first", "tool first"] * 4
    assert predict_tfidf(pairs, labels, pairs[:2]) == labels[:2]
    seconds = [("same", second) for second in ("red apple", "sharp saw")] * 4
    assert predict_tfidf(seconds, ["fruit", "tool"] * 4, seconds[:2]) == ["fruit", "tool"]


def test_each_label_is_learned_against_the_texts_without_it() -> None:
    learned = np.array(
        [[label == "fruit", "red" in text, True, False] for text, label in zip(TEXTS, LABELS, strict=True)]
    )
    found = predict_tfidf_of_each(TEXTS, learned, ["apple", "the sharp saw"])
    assert found[:, 0].tolist() == [True, False]
    assert found[:, 2].all()
    assert not found[:, 3].any()
    alone = predict_tfidf(TEXTS, [str(has) for has in learned[:, 1]], ["apple", "the sharp saw"])
    assert [str(has) for has in found[:, 1]] == alone


def test_the_majority_of_each_label_is_more_than_half() -> None:
    assert majority_of_each(np.array([[1, 1, 0], [1, 0, 0]], dtype=bool)).tolist() == [True, False, False]
