"""Bootstrap intervals: the fast resampling of counts against drawing rows one by one, and their coverage."""

import time

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from pipeline.evaluation import intervals
from pipeline.evaluation.intervals import bootstrap_intervals


def predictions(rows: int, classes: int, share_right: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows)
    guesses = generator.integers(0, classes, rows)
    return labels, np.where(generator.random(rows) < share_right, labels, guesses)


def test_the_interval_is_that_of_drawing_rows_with_replacement() -> None:
    labels, predicted = predictions(200, 4, 0.6)
    found = bootstrap_intervals(labels, predicted, 4, samples=4000, confidence=0.9, seed=3)
    generator = np.random.default_rng(5)
    slow: dict[str, list[float]] = {"accuracy": [], "macro_f1": [], "weighted_f1": []}
    for _ in range(800):
        drawn = generator.integers(0, 200, 200)
        slow["accuracy"].append(float(np.mean(labels[drawn] == predicted[drawn])))
        _, _, f1, support = precision_recall_fscore_support(labels[drawn], predicted[drawn])
        slow["macro_f1"].append(float(np.mean(f1)))
        slow["weighted_f1"].append(float(np.average(f1, weights=support)))
    for name, values in slow.items():
        low, high = np.quantile(values, [0.05, 0.95])
        assert found[name]["low"] == pytest.approx(low, abs=0.012)
        assert found[name]["high"] == pytest.approx(high, abs=0.012)
        assert found[name]["low"] < found[name]["value"] < found[name]["high"]
    assert found["micro_f1"] == found["accuracy"]


def test_the_seed_decides_the_interval_and_blocks_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, predicted = predictions(150, 5, 0.5)
    options = {"samples": 300, "confidence": 0.95}
    first = bootstrap_intervals(labels, predicted, 5, seed=1, **options)
    assert bootstrap_intervals(labels, predicted, 5, seed=1, **options) == first
    assert bootstrap_intervals(labels, predicted, 5, seed=2, **options) != first
    order = np.random.default_rng(0).permutation(150)
    assert bootstrap_intervals(labels[order], predicted[order], 5, seed=1, **options) == first
    monkeypatch.setattr(intervals, "NUMBERS_AT_ONCE", 64)
    assert bootstrap_intervals(labels, predicted, 5, seed=1, **options) == first


def test_it_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(200):
        labels, predicted = predictions(300, 3, 0.7, seed)
        found = bootstrap_intervals(labels, predicted, 3, samples=300, confidence=0.9, seed=seed)["accuracy"]
        covered += found["low"] <= 0.7 + 0.3 / 3 <= found["high"]
    assert 0.83 <= covered / 200 <= 0.96


def test_a_perfect_model_has_no_width_and_one_example_is_enough() -> None:
    labels = np.array([0, 1, 1, 2])
    found = bootstrap_intervals(labels, labels, 3, samples=50, confidence=0.95, seed=0)
    assert found["accuracy"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    one = bootstrap_intervals(np.array([1]), np.array([0]), 2, samples=10, confidence=0.95, seed=0)
    assert one["macro_f1"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_a_thousand_resamples_of_five_thousand_rows_are_quick() -> None:
    labels, predicted = predictions(5000, 12, 0.6)
    started = time.process_time()
    bootstrap_intervals(labels, predicted, 12, samples=1000, confidence=0.95, seed=0)
    assert time.process_time() - started < 1.0
