"""Is the challenger better than the champion? Paired tests on the same examples, and a verdict.

Legend of shapes: N examples, C classes, K distinct (label, champion, challenger) triples, S resamples.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import binom

from pipeline.common.errors import HallmarkError
from pipeline.common.label_sets import labels_from_json
from pipeline.evaluation.resampling import resampled_figures
from pipeline.tasks.label_set_metrics import count_label_sets, indicators, label_set_figures
from pipeline.tasks.metrics import class_numbers, classification_metrics, per_class_figures

Verdict = Literal["better", "not worse", "inconclusive", "worse"]
SAMPLES = 10_000
CELLS_AT_ONCE = 2_000_000  # numbers held by one block of resamples: 16 MB


@dataclass(frozen=True)
class Figures:
    """What one model reaches on the test set."""

    accuracy: float
    macro_f1: float


def measure(labels: Sequence[str], predicted: Sequence[str], classes: Sequence[str]) -> Figures:
    """The same two figures of one model alone."""
    metrics = classification_metrics(labels, predicted, classes)
    return Figures(metrics["accuracy"], metrics["f1"]["macro"])


@dataclass(frozen=True)
class Difference:
    """Challenger minus champion, with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Two models on the same examples, and what follows from it."""

    examples: int
    champion: Figures
    challenger: Figures
    only_champion_right: int
    only_challenger_right: int
    accuracy_difference: float
    accuracy_p_value: float  # exact McNemar, two-sided
    macro_f1_difference: Difference  # paired bootstrap, confidence 1 - alpha
    alpha: float
    margin: float
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare(
    labels: Sequence[str],
    champion: Sequence[str],
    challenger: Sequence[str],
    *,
    classes: Sequence[str],
    alpha: float,
    margin: float,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two models' predictions of the same N examples.

    Args:
        labels, champion, challenger: true and predicted labels, (N,), in the same order.
        classes: every label that may occur; macro-F1 is the mean over all of them.
        alpha: significance level of both tests; the interval has confidence 1 - alpha.
        margin: macro-F1 that the challenger may lose and still be called not worse.

    Raises:
        HallmarkError: no examples, different lengths, or a label that is not among `classes`.
    """
    if not len(labels) == len(champion) == len(challenger) or len(labels) == 0:
        sizes = f"{len(labels)} labels, {len(champion)} and {len(challenger)} predictions"
        raise HallmarkError(f"{sizes} cannot be compared")
    triples_N3 = np.stack([class_numbers(column, classes) for column in (labels, champion, challenger)], axis=1)
    right_N2 = triples_N3[:, 1:] == triples_N3[:, :1]
    cells_K3, counts_K = np.unique(triples_N3, axis=0, return_counts=True)
    pair_2 = macro_f1_pairs(cells_K3, counts_K[None, :], len(classes))[0]
    differences_S = np.concatenate(list(_resampled_differences(cells_K3, counts_K, len(classes), samples, seed)))
    return _conclude(right_N2, pair_2, differences_S, alpha, margin)


def compare_sets(
    labels: Sequence[str],
    champion: Sequence[str],
    challenger: Sequence[str],
    *,
    classes: Sequence[str],
    alpha: float,
    margin: float,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Comparison:
    """The same for texts with any number of labels: accuracy is subset accuracy, all labels of a text right.

    Macro-F1 is resampled by whole texts. Here and in `measure_sets` the labels of a text are JSON, as tables hold them.
    """
    truth_NC, *both = (_indicators(column, classes) for column in (labels, champion, challenger))
    counts = [count_label_sets(truth_NC, predicted_NC) for predicted_NC in both]
    old_S, new_S = (
        resampled_figures(each, lambda sums: label_set_figures(sums, len(truth_NC)), samples=samples, seed=seed)[
            "macro_f1"
        ]
        for each in counts
    )
    right_N2 = np.stack([each[:, -1] == 1 for each in counts], axis=1)
    return _conclude(right_N2, np.array([old_S[0], new_S[0]]), (new_S - old_S)[1:], alpha, margin)


def measure_sets(labels: Sequence[str], predicted: Sequence[str], classes: Sequence[str]) -> Figures:
    """Subset accuracy and macro-F1 of one model alone."""
    counts_NK = count_label_sets(*(_indicators(column, classes) for column in (labels, predicted)))
    figures = label_set_figures(counts_NK.sum(axis=0), len(counts_NK))
    return Figures(float(figures["subset_accuracy"]), float(figures["macro_f1"]))


def _indicators(column: Sequence[str], classes: Sequence[str]) -> np.ndarray:
    return indicators([labels_from_json(content) for content in column], classes)


def _conclude(
    right_N2: np.ndarray, macro_f1_2: np.ndarray, differences_S: np.ndarray, alpha: float, margin: float
) -> Comparison:
    """What follows, champion before challenger: from which examples each has right, from their macro-F1, and from its
    differences in the resamples.
    """
    only_champion = int((right_N2[:, 0] & ~right_N2[:, 1]).sum())
    only_challenger = int((right_N2[:, 1] & ~right_N2[:, 0]).sum())
    low, high = np.quantile(differences_S, [alpha / 2, 1 - alpha / 2])
    difference = Difference(float(macro_f1_2[1] - macro_f1_2[0]), float(low), float(high))
    p_value = mcnemar_p_value(only_champion, only_challenger)
    champion, challenger = (
        Figures(float(accuracy), float(macro_f1))
        for accuracy, macro_f1 in zip(right_N2.mean(axis=0), macro_f1_2, strict=True)
    )
    return Comparison(
        examples=len(right_N2),
        champion=champion,
        challenger=challenger,
        only_champion_right=only_champion,
        only_challenger_right=only_challenger,
        accuracy_difference=(only_challenger - only_champion) / len(right_N2),
        accuracy_p_value=p_value,
        macro_f1_difference=difference,
        alpha=alpha,
        margin=margin,
        verdict=decide(difference, only_challenger < only_champion and p_value < alpha, margin),
    )


def decide(difference: Difference, accuracy_lost: bool, margin: float) -> Verdict:
    """The verdict; macro-F1 leads, a significant loss of accuracy vetoes.

    - better: the whole interval of the macro-F1 difference is above 0.
    - worse: accuracy is significantly lower, or the whole interval is below 0 and reaches below -margin.
    - not worse: the whole interval is at or above -margin.
    - inconclusive: the interval says neither, or macro-F1 rose while accuracy fell.

    Only one test can say `better`, so its false alarms stay below alpha / 2.
    """
    if difference.low > 0:
        return "inconclusive" if accuracy_lost else "better"
    if accuracy_lost:
        return "worse"
    if difference.low >= -margin:
        return "not worse"
    return "worse" if difference.high < 0 else "inconclusive"


def mcnemar_p_value(only_first_right: int, only_second_right: int) -> float:
    """Exact McNemar test: the two-sided binomial test of the discordant pairs at 1/2 (McNemar 1947).

    Returns 1.0 where no pair is discordant.
    """
    discordant = only_first_right + only_second_right
    fewer = min(only_first_right, only_second_right)
    return min(1.0, 2.0 * float(binom.cdf(fewer, discordant, 0.5)))


def macro_f1_pairs(cells_K3: np.ndarray, counts_SK: np.ndarray, classes: int) -> np.ndarray:
    """Macro-F1 of both models from how often each triple occurs.

    Args:
        cells_K3: int (K, 3), the distinct (label, champion, challenger) triples as class numbers.
        counts_SK: int (S, K), occurrences of each triple in each resample.
        classes: C; a class that neither occurs nor is predicted counts as F1 0.

    Returns:
        float64 (S, 2): champion, challenger.
    """
    one_hot_K3C = np.eye(classes)[cells_K3]
    counts_SK = counts_SK.astype(np.float64)  # exact, and products of floats are fast
    labels_SC = counts_SK @ one_hot_K3C[:, 0]
    scores = []
    for model in (1, 2):
        predicted_SC = counts_SK @ one_hot_K3C[:, model]
        hits_SC = counts_SK @ (one_hot_K3C[:, model] * one_hot_K3C[:, 0])
        scores.append(per_class_figures(hits_SC, labels_SC, predicted_SC)["f1"].mean(axis=1))
    return np.stack(scores, axis=1)


def _resampled_differences(
    cells_K3: np.ndarray, counts_K: np.ndarray, classes: int, samples: int, seed: int
) -> Iterator[np.ndarray]:
    """Paired bootstrap. Drawing N examples with replacement is drawing the K counts from a multinomial."""
    generator = np.random.default_rng(seed)
    examples = int(counts_K.sum())
    block = max(1, CELLS_AT_ONCE // len(cells_K3))
    for start in range(0, samples, block):
        drawn_SK = generator.multinomial(examples, counts_K / examples, size=min(block, samples - start))
        pairs_S2 = macro_f1_pairs(cells_K3, drawn_SK, classes)
        yield pairs_S2[:, 1] - pairs_S2[:, 0]
