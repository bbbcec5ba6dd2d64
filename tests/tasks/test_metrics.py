"""Every figure against scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from pipeline.common.errors import HallmarkError
from pipeline.tasks.metrics import averaged_figures, class_numbers, classification_metrics

CLASSES = ["cat", "dog", "猫", "never there"]
PAIRS = st.lists(st.tuples(st.sampled_from(CLASSES[:3]), st.sampled_from(CLASSES[:3])), min_size=1, max_size=60)


@given(PAIRS)
@settings(max_examples=60, deadline=None)
def test_every_figure_is_scikit_learns(pairs: list[tuple[str, str]]) -> None:
    labels, predicted = [list(column) for column in zip(*pairs, strict=True)]
    found = classification_metrics(labels, predicted, CLASSES)
    assert found["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(labels, predicted), abs=1e-12)
    for how in ("macro", "micro", "weighted", None):
        expected = sklearn_metrics.precision_recall_fscore_support(
            labels, predicted, labels=CLASSES, average=how, zero_division=0
        )
        for name, value in zip(("precision", "recall", "f1"), expected, strict=False):
            if how is None:
                ours = [found["per_class"][label][name] for label in CLASSES]
            else:
                ours = found[name][how]
            assert ours == pytest.approx(value, abs=1e-12)
    assert [row["rows"] for row in found["per_class"].values()] == np.asarray(expected[3]).tolist()
    assert found["confusion"] == sklearn_metrics.confusion_matrix(labels, predicted, labels=CLASSES).tolist()


def test_many_samples_at_once_are_the_samples_one_by_one() -> None:
    generator = np.random.default_rng(0)
    confusion_SCC = generator.integers(0, 5, size=(7, 3, 3))
    counts = confusion_SCC.diagonal(axis1=1, axis2=2), confusion_SCC.sum(axis=2), confusion_SCC.sum(axis=1)
    together = averaged_figures(*counts)
    for sample in range(7):
        alone = averaged_figures(*(count[sample] for count in counts))
        assert all(together[name][sample] == alone[name] for name in together)


def test_a_label_that_is_no_class_is_named_with_the_allowed_ones() -> None:
    with pytest.raises(HallmarkError, match="unknown label 'cow'; allowed: cat, dog"):
        class_numbers(["cat", "cow"], ["cat", "dog"])


@pytest.mark.parametrize(("labels", "predicted"), [([], []), (["cat"], ["cat", "dog"])])
def test_nothing_or_unequal_numbers_cannot_be_compared(labels: list[str], predicted: list[str]) -> None:
    with pytest.raises(HallmarkError, match="cannot be compared"):
        classification_metrics(labels, predicted, CLASSES)
