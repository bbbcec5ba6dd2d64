"""Which setting is better, measured over several seeds: paired tests, Holm's correction and a verdict.

Two noises are tested, and a difference has to be outside both. Seeds: would other random choices turn it round? A
paired t-test over the seeds. Examples: would other test texts? A paired bootstrap of macro-F1, where there are
predictions.

Legend of shapes: N examples, R seeds, K kinds of examples, T distinct (label, first, second) triples, S resamples.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import t as student

from pipeline.common.errors import HallmarkError
from pipeline.evaluation.intervals import NUMBERS_AT_ONCE
from pipeline.tasks.metrics import class_numbers, per_class_figures

ALPHA = 0.05
EQUAL_FLOPS = 0.02  # arms whose FLOPs differ by less count as equally expensive
SAMPLES = 5_000
LOWER_IS_BETTER = ("bits_per_byte", "loss", "perplexity", "seconds")

Scores = Mapping[int, float]  # seed -> figure
Answers = Mapping[int, pd.DataFrame]  # seed -> one row per test example: id, label, predicted


@dataclass(frozen=True)
class Difference:
    """First minus second, with its interval and the two-sided p-value of "no difference"."""

    value: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class Contrast:
    """One setting against another, on the seeds that both have.

    Attributes:
        seeds: how many both have.
        over_seeds: mean difference of the figure; None without a common seed.
        over_examples: difference of the pooled macro-F1; None where there are no paired predictions.
        p_value: the larger of the two, corrected for the number of comparisons.
    """

    seeds: int
    over_seeds: Difference | None
    over_examples: Difference | None
    p_value: float


@dataclass(frozen=True)
class Ranked:
    """One setting's place. `to_reference` and `to_best` are None for the reference and the best themselves."""

    label: str
    mean: float
    deviation: float | None  # of the sample, n - 1; None with one seed
    seeds: int
    to_reference: Contrast | None
    to_best: Contrast | None


def rank(
    scores: Mapping[str, Scores], *, lower: bool, answers: Mapping[str, Answers] | None = None, alpha: float = ALPHA
) -> list[Ranked]:
    """Order settings by their mean, best first, and compare each with the reference and with the best.

    The reference was chosen beforehand: Holm's correction is over the comparisons with it. The best was chosen by
    these very figures: its comparisons are corrected over all pairs, any of which could have come to be looked at.

    Args:
        scores: the figure of each setting by seed; the first setting is the reference. One without seeds is left out.
        lower: whether less is better.
        answers: test predictions of each setting by seed, where there are some.
        alpha: the intervals have confidence 1 - alpha.

    Raises:
        HallmarkError: no setting has a figure.
    """
    measured = {label: values for label, values in scores.items() if values}
    if not measured:
        raise HallmarkError("no arm has a figure to rank by", fix="see the errors of the arms")
    answers = answers or {}
    means = {label: float(np.mean(list(values.values()))) for label, values in measured.items()}
    order = sorted(means, key=lambda label: means[label] if lower else -means[label])
    reference, best = next(iter(scores)), order[0]
    pairs = {
        (first, second): _contrast(measured, answers, first, second, alpha)
        for first, second in combinations(measured, 2)
    }
    with_reference = _corrected({pair: found for pair, found in pairs.items() if reference in pair})
    with_any = _corrected(pairs)
    return [
        Ranked(
            label,
            means[label],
            float(np.std(list(measured[label].values()), ddof=1)) if len(measured[label]) > 1 else None,
            len(measured[label]),
            _seen_from(label, reference, with_reference),
            _seen_from(label, best, with_any),
        )
        for label in order
    ]


def judge(contrast: Contrast, *, lower: bool, alpha: float = ALPHA) -> str:
    """The verdict on the first setting: `better` or `worse` outside the noise, else `noise`, with a known reason."""
    if contrast.over_seeds is None:
        return "noise: no common seed"
    if contrast.seeds == 1:
        return "noise: one seed"
    difference = contrast.over_seeds
    if difference.low == difference.high != 0:
        return "noise: the seeds changed nothing"
    if contrast.p_value >= alpha:
        return "noise"
    return "better" if (difference.value < 0) == lower else "worse"


def is_lower_better(metric: str) -> bool:
    return metric.endswith(LOWER_IS_BETTER)


def flops_are_equal(flops: Sequence[float | None]) -> bool | None:
    """Whether all are within 2 % of the smallest; None if one is not known."""
    known = [value for value in flops if value]
    if len(known) < len(flops) or not known:
        return None
    return max(known) <= (1 + EQUAL_FLOPS) * min(known)


def paired_difference(first: Scores, second: Scores, alpha: float = ALPHA) -> Difference | None:
    """Mean difference on the common seeds with the paired t-test (Student 1908).

    Returns:
        None without a common seed. The p-value is 1.0 with one, and where the differences do not vary: then the
        seeds tell nothing of the noise.
    """
    differences_R = np.array([first[seed] - second[seed] for seed in first if seed in second])
    count = len(differences_R)
    if count == 0:
        return None
    value = float(differences_R.mean())
    if count == 1:
        return Difference(value, -math.inf, math.inf, 1.0)
    error = float(differences_R.std(ddof=1)) / math.sqrt(count)
    if error <= 1e-12 * max(abs(value), 1e-300):  # rounding alone
        return Difference(value, value, value, 1.0)
    reach = float(student.ppf(1 - alpha / 2, count - 1)) * error
    p_value = 2.0 * float(student.sf(abs(value) / error, count - 1))
    return Difference(value, value - reach, value + reach, p_value)


def pooled_macro_f1_difference(
    first: Answers, second: Answers, alpha: float = ALPHA, samples: int = SAMPLES, seed: int = 0
) -> Difference | None:
    """Paired bootstrap of the macro-F1 of all common seeds' predictions together.

    An example is drawn with its answers under every seed: those are not independent, and to draw them one by one would
    make the interval too narrow (the cluster bootstrap; Davison and Hinkley 1997, section 3.8).

    Returns:
        None without a common seed, or where the two were not tested on the same examples.
    """
    tables = []
    for number in [number for number in first if number in second]:
        both = first[number].merge(second[number], on=["id", "label"], suffixes=("_first", "_second"))
        if not len(both) == len(first[number]) == len(second[number]):
            return None
        tables.append(both[["id", "label", "predicted_first", "predicted_second"]].assign(seed=number))
    if not tables:
        return None
    rows = pd.concat(tables, ignore_index=True)
    columns = [rows[name].astype(str).tolist() for name in ("label", "predicted_first", "predicted_second")]
    classes = sorted(set().union(*columns))
    numbers_3 = [class_numbers(column, classes) for column in columns]
    cells_T3, triples = np.unique(np.stack(numbers_3, axis=1), axis=0, return_inverse=True)
    kinds_KT, counts_K = _kinds_of_examples(rows.assign(triple=triples.reshape(-1)), len(cells_T3))
    whole = macro_f1_pairs(cells_T3, (counts_K @ kinds_KT)[None, :], len(classes))[0]
    drawn = _resample(kinds_KT, counts_K, samples, seed)
    scores_S2 = np.concatenate([macro_f1_pairs(cells_T3, counts_ST, len(classes)) for counts_ST in drawn])
    differences_S = scores_S2[:, 0] - scores_S2[:, 1]
    low, high = np.quantile(differences_S, [alpha / 2, 1 - alpha / 2])
    smaller = min(int((differences_S <= 0).sum()), int((differences_S >= 0).sum()))
    p_value = min(1.0, 2.0 * (1 + smaller) / (1 + samples))  # never 0 (Davison and Hinkley 1997, section 4.2)
    return Difference(float(whole[0] - whole[1]), float(low), float(high), p_value)


def macro_f1_pairs(cells_T3: np.ndarray, counts_ST: np.ndarray, classes: int) -> np.ndarray:
    """Macro-F1 of two settings from how often each triple occurs.

    Args:
        cells_T3: int (T, 3), the distinct (label, first, second) triples as class numbers.
        counts_ST: float64 (S, T), occurrences of each triple in each resample.
        classes: C; a class that neither occurs nor is predicted counts as F1 0.

    Returns:
        float64 (S, 2): first, second.
    """
    one_hot_T3C = np.eye(classes)[cells_T3]
    labels_SC = counts_ST @ one_hot_T3C[:, 0]
    scores = []
    for setting in (1, 2):
        predicted_SC = counts_ST @ one_hot_T3C[:, setting]
        hits_SC = counts_ST @ (one_hot_T3C[:, setting] * one_hot_T3C[:, 0])
        scores.append(per_class_figures(hits_SC, labels_SC, predicted_SC)["f1"].mean(axis=1))
    return np.stack(scores, axis=1)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number, so that the chance of any false alarm stays below alpha (Holm 1979)."""
    corrected = [0.0] * len(p_values)
    floor = 0.0
    for rank_, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        floor = max(floor, min(1.0, (len(p_values) - rank_) * p_values[place]))
        corrected[place] = floor
    return corrected


def _contrast(
    scores: Mapping[str, Scores], answers: Mapping[str, Answers], first: str, second: str, alpha: float
) -> Contrast:
    over_seeds = paired_difference(scores[first], scores[second], alpha)
    over_examples = pooled_macro_f1_difference(answers.get(first, {}), answers.get(second, {}), alpha)
    found = [difference for difference in (over_seeds, over_examples) if difference is not None]
    agree = len({difference.value > 0 for difference in found}) == 1
    p_value = max(difference.p_value for difference in found) if agree else 1.0
    return Contrast(len(set(scores[first]) & set(scores[second])), over_seeds, over_examples, p_value)


def _corrected(pairs: Mapping[tuple[str, str], Contrast]) -> dict[tuple[str, str], Contrast]:
    p_values = holm([found.p_value for found in pairs.values()])
    return {
        pair: Contrast(found.seeds, found.over_seeds, found.over_examples, p_value)
        for (pair, found), p_value in zip(pairs.items(), p_values, strict=True)
    }


def _seen_from(label: str, other: str, pairs: Mapping[tuple[str, str], Contrast]) -> Contrast | None:
    """The contrast of `label` minus `other`, whichever way round it was made."""
    if (label, other) in pairs:
        return pairs[label, other]
    if (other, label) not in pairs:
        return None
    found = pairs[other, label]
    return Contrast(found.seeds, _turned(found.over_seeds), _turned(found.over_examples), found.p_value)


def _turned(found: Difference | None) -> Difference | None:
    if found is None:
        return None
    return Difference(0.0 - found.value, 0.0 - found.high, 0.0 - found.low, found.p_value)  # never -0.0


def _kinds_of_examples(rows: pd.DataFrame, triples: int) -> tuple[np.ndarray, np.ndarray]:
    """Examples whose answers under all seeds are alike: (K, T) how often each triple occurs in one, (K,) how many."""
    table_NR = rows.pivot(index="id", columns="seed", values="triple").fillna(-1).to_numpy(dtype=np.int64)
    kinds_KR, counts_K = np.unique(table_NR, axis=0, return_counts=True)
    kinds_KT = np.stack([(kinds_KR == triple).sum(axis=1) for triple in range(triples)], axis=1)
    return kinds_KT, counts_K


def _resample(kinds_KT: np.ndarray, counts_K: np.ndarray, samples: int, seed: int) -> Iterator[np.ndarray]:
    """Blocks of (S, T) counts of triples. Drawing N examples with replacement is drawing the K counts at once."""
    generator = np.random.default_rng(seed)
    examples = int(counts_K.sum())
    block = max(1, NUMBERS_AT_ONCE // max(kinds_KT.shape))
    for start in range(0, samples, block):
        drawn_SK = generator.multinomial(examples, counts_K / examples, size=min(block, samples - start))
        yield drawn_SK.astype(np.float64) @ kinds_KT  # exact, and products of floats are fast
