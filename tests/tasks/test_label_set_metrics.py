"""Figures of label sets against scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from pipeline.common.errors import HallmarkError
from pipeline.tasks.label_set_metrics import (
    count_label_sets,
    indicators,
    label_set_figures,
    label_set_metrics,
    pair_labels,
)
from pipeline.tasks.span_metrics import NOTHING

LABELS = ["cat", "dog", "猫", "never there"]
SETS = st.sets(st.sampled_from(LABELS[:3])).map(sorted)


@given(st.lists(st.tuples(SETS, SETS), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_every_figure_is_scikit_learns(pairs: list[tuple[list[str], list[str]]]) -> None:
    truth_NC, predicted_NC = (indicators(column, LABELS) for column in zip(*pairs, strict=True))
    counts_NK = count_label_sets(truth_NC, predicted_NC)
    figures = label_set_figures(counts_NK.sum(axis=0), len(pairs))
    described = label_set_metrics(counts_NK, LABELS)
    assert figures["subset_accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(truth_NC, predicted_NC), abs=1e-9)
    for how in ("macro", "micro", "weighted", None):
        expected = sklearn_metrics.precision_recall_fscore_support(truth_NC, predicted_NC, average=how, zero_division=0)
        for name, value in zip(("precision", "recall", "f1"), expected, strict=False):
            if how is None:
                ours = [described["per_class"][label][name] for label in LABELS]
            else:
                ours = described[name][how]
                assert figures[f"{how}_{name}"] == ours
            assert ours == pytest.approx(value, abs=1e-9)
    assert [described["per_class"][label]["rows"] for label in LABELS] == truth_NC.sum(axis=0).tolist()


def test_an_unknown_label_is_named_with_the_allowed_ones() -> None:
    with pytest.raises(HallmarkError, match="unknown label 'cow'; allowed: cat, dog"):
        indicators([["cat"], ["cow"]], ["cat", "dog"])
    assert indicators([[], ["dog"]], ["cat", "dog"]).tolist() == [[False, False], [False, True]]


def test_pairs_are_of_all_labels_that_are_true_or_given() -> None:
    assert pair_labels([["a", "b"], []], [["b", "c"], []]) == [("a", NOTHING), ("b", "b"), (NOTHING, "c")]


def test_many_samples_at_once_are_the_samples_one_by_one() -> None:
    generator = np.random.default_rng(0)
    counts_SNK = np.stack([count_label_sets(*(generator.random((2, 9, 3)) < 0.4)) for _ in range(5)])
    together = label_set_figures(counts_SNK.sum(axis=1), 9)
    for sample, counts_NK in enumerate(counts_SNK):
        alone = label_set_figures(counts_NK.sum(axis=0), 9)
        assert all(together[name][sample] == alone[name] for name in together)
