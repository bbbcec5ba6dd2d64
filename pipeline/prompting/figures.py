"""What prompting reaches, and what the choice of demonstrations is worth, with intervals over texts and seeds.

Legend: N test texts, S resamples and before them the whole, K seeds, C labels.

A resample draws N texts and K seeds with replacement (a seed with all its orders); a figure is the mean over its runs.
All conditions are resampled alike, so their differences are paired.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.common.params import Evaluate
from pipeline.evaluation.intervals import interval
from pipeline.prompting.asking import Answers
from pipeline.prompting.experiment import ZERO_SHOT, Prompted, Run
from pipeline.tasks.metrics import Figures, averaged_figures, class_numbers

HEADLINES = ("accuracy", "macro_f1")
LEADING = "macro_f1"
Figure = dict[str, float]  # value, low, high
SAMPLES_IN_TAIL = 10  # of resamples beyond the end of an interval that a claim is made by


@dataclass(frozen=True)
class Condition:
    """One method with one number of demonstrations.

    Attributes:
        figures: accuracy and macro_f1 over all runs; and macro_f1 "uncalibrated".
        lowest, highest: macro-F1 of single runs.
        unanswered: share of the answers that named no label.
        leads: by how much its macro-F1 is above that "no calibration", "no examples", and of "random"
            demonstrations, as many. Where there is such a thing.
        claims: the leads that are outside the noise at the level shared by all of them (Bonferroni), better or worse.
    """

    method: str
    shots: int
    runs: int
    figures: dict[str, Figure]
    lowest: float
    highest: float
    unanswered: float
    leads: dict[str, Figure]
    claims: dict[str, str]

    @property
    def name(self) -> str:
        return self.method if self.method == ZERO_SHOT else f"{self.method}_{self.shots}"


@dataclass(frozen=True)
class Measured:
    """All conditions, in the order in which they were run, and how sure they are."""

    conditions: list[Condition]
    majority: dict[str, float]  # accuracy and macro_f1 of the majority label
    comparisons: int
    samples: int
    confidence: float

    def to_metrics(self) -> dict[str, Any]:
        """Figures by the condition's name: {"random_4": {"macro_f1": {"value", "low", "high"}, ...}}."""
        found: dict[str, Any] = {
            condition.name: {
                **condition.figures,
                **{f"lead_{name.replace(' ', '_')}": lead for name, lead in condition.leads.items()},
                "lowest_macro_f1": condition.lowest,
                "highest_macro_f1": condition.highest,
                "unanswered": condition.unanswered,
                "runs": condition.runs,
            }
            for condition in self.conditions
        }
        return found | {"majority": self.majority}


def measure(prompted: Prompted, settings: Evaluate, seed: int) -> Measured:
    """Figures of every condition that was measured.

    Args:
        prompted: the answers, of one run at least.
        settings: confidence, and the least number of resamples.
        seed: decides the resamples.
    """
    by_condition: dict[tuple[str, int], list[Run]] = {}
    for run in prompted.runs:
        by_condition.setdefault((run.method, run.shots), []).append(run)
    calibrated = any(run.predicted != run.uncalibrated for run in prompted.runs)
    compared = {key: _references(key, by_condition, calibrated) for key in by_condition}
    comparisons = sum(map(len, compared.values()))
    tail = (1 - settings.confidence) / 2 / max(1, comparisons)
    samples = max(settings.bootstrap_samples, math.ceil(SAMPLES_IN_TAIL / tail))
    resampled = _Resamples(prompted, samples, seed)
    values = {(*key, True): resampled.figures(runs, True) for key, runs in by_condition.items()}
    values |= {(*key, False): resampled.figures(runs, False) for key, runs in by_condition.items()}
    conditions = []
    for key, runs in by_condition.items():
        own = values[*key, True]
        figures = {name: _figure(own[name], settings.confidence) for name in HEADLINES}
        if calibrated:
            figures["uncalibrated"] = _figure(values[*key, False][LEADING], settings.confidence)
        differences = {name: own[LEADING] - values[other][LEADING] for name, other in compared[key].items()}
        each = [resampled.whole(run.predicted)[LEADING] for run in runs]
        conditions.append(
            Condition(
                *key,
                len(runs),
                figures,
                min(each),
                max(each),
                float(np.mean([answer is None for run in runs for answer in run.predicted])),
                {name: _figure(lead, settings.confidence) for name, lead in differences.items()},
                _claims(differences, 1 - 2 * tail),
            )
        )
    majority = resampled.whole([prompted.majority] * len(prompted.truth))
    return Measured(conditions, majority, comparisons, samples, settings.confidence)


def _references(
    key: tuple[str, int], measured: dict[tuple[str, int], list[Run]], calibrated: bool
) -> dict[str, tuple[str, int, bool]]:
    """What a condition is compared with: method, shots, and whether it is calibrated."""
    method, shots = key
    found = {"no calibration": (*key, False)} if calibrated else {}
    if shots and (ZERO_SHOT, 0) in measured:
        found["no examples"] = (ZERO_SHOT, 0, True)
    if shots and method != "random" and ("random", shots) in measured:
        found["random"] = ("random", shots, True)
    return found


def _figure(values: np.ndarray, confidence: float) -> Figure:
    found = interval(values, confidence)
    return {"value": found["value"], "low": found["low"], "high": found["high"]}


def _claims(differences: dict[str, np.ndarray], confidence: float) -> dict[str, str]:
    sure = {name: _figure(values, confidence) for name, values in differences.items()}
    return {
        name: "better" if found["low"] > 0 else "worse"
        for name, found in sure.items()
        if found["low"] > 0 or found["high"] < 0
    }


class _Resamples:
    """Draws of texts and of seeds, the same for all conditions."""

    def __init__(self, prompted: Prompted, samples: int, seed: int) -> None:
        self.labels = prompted.labels
        self.truth_NC = self._one_hot(prompted.truth)
        self.seeds = sorted({run.seed for run in prompted.runs})
        generator, texts, seeds = np.random.default_rng(seed), len(prompted.truth), len(self.seeds)
        drawn_SN = generator.multinomial(texts, np.full(texts, 1 / texts), size=samples)
        self.texts_SN = np.concatenate([np.ones((1, texts)), drawn_SN])
        drawn_SK = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=samples)
        self.seeds_SK = np.concatenate([np.ones((1, seeds)), drawn_SK])

    def _one_hot(self, answers: Sequence[str | None]) -> np.ndarray:
        """float64 (N, C); a row of zeros for an answer that names no label."""
        named = [answer if answer is not None else self.labels[0] for answer in answers]
        is_named_N1 = np.array([[answer is not None] for answer in answers])
        return np.eye(len(self.labels))[class_numbers(named, self.labels)] * is_named_N1

    def figures(self, runs: Sequence[Run], calibrated: bool) -> Figures:
        """Accuracy and macro-F1, float64 (1 + S,), mean over runs: of the whole first."""
        each = [self._of(run.predicted if calibrated else run.uncalibrated, self.texts_SN) for run in runs]
        if len({run.seed for run in runs}) == 1:
            weights_SR = np.ones((len(self.texts_SN), len(runs)))
        else:
            weights_SR = self.seeds_SK[:, [self.seeds.index(run.seed) for run in runs]]
        return {
            name: (np.stack([found[name] for found in each], axis=1) * weights_SR).sum(axis=1) / weights_SR.sum(axis=1)
            for name in HEADLINES
        }

    def whole(self, answers: Answers) -> dict[str, float]:
        """Accuracy and macro-F1 of all texts."""
        found = self._of(answers, self.texts_SN[:1])
        return {name: float(found[name][0]) for name in HEADLINES}

    def _of(self, answers: Answers, texts_SN: np.ndarray) -> Figures:
        predicted_NC = self._one_hot(answers)
        labels_SC, predicted_SC = texts_SN @ self.truth_NC, texts_SN @ predicted_NC
        return averaged_figures(texts_SN @ (self.truth_NC * predicted_NC), labels_SC, predicted_SC)
