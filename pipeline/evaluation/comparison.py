"""Is the challenger better than the champion? Paired tests on the same texts, and a verdict.

Legend of shapes: N texts, or kinds of texts that count alike; S resamples.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import binom

from pipeline.common.errors import HallmarkError
from pipeline.common.figures import highest
from pipeline.evaluation.resampling import resampled_figures
from pipeline.tasks.metrics import Figures

Verdict = Literal["better", "not worse", "inconclusive", "worse"]
SAMPLES = 10_000
FEWEST = 10  # texts; the resamples of fewer say too little about other texts


@dataclass(frozen=True)
class Tally:
    """What the answers of one model or several to the same texts count, see `pipeline.evaluation.tallies`.

    Attributes:
        counts: of each model, numbers (N, ...) whose sums over texts give the figures.
        figures: of sums over texts, (S, ...) to float64 (S,) by name.
        shown: names of the figures that are told; the first one leads.
        times: how many texts count like this, int (N,).
        right: of each model, bool (N,), whether all of a text is right; none where right and wrong say little.
    """

    counts: tuple[np.ndarray, ...]
    figures: Callable[[np.ndarray], Figures]
    shown: tuple[str, ...]
    times: np.ndarray
    right: tuple[np.ndarray, ...] = ()


@dataclass(frozen=True)
class Difference:
    """Challenger minus champion, with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Discordant:
    """Texts that only one of two models has right, and what McNemar's exact test (two-sided) says of them."""

    only_champion: int
    only_challenger: int
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """Two models on the same texts, and what follows from it.

    Attributes:
        examples: texts.
        champion, challenger: figures by name, the leading one first.
        difference: of the leading figure; paired bootstrap, confidence 1 - alpha.
        discordant: where a text is right or wrong as a whole.
        margin: in the unit of the leading figure.
    """

    examples: int
    champion: dict[str, float]
    challenger: dict[str, float]
    difference: Difference
    discordant: Discordant | None
    alpha: float
    margin: float
    verdict: Verdict

    @property
    def leading(self) -> str:
        return next(iter(self.challenger))

    def to_dict(self) -> dict[str, Any]:
        return {"leading": self.leading, **asdict(self)}


def measure(tally: Tally) -> list[dict[str, float]]:
    """The figures of each model, the leading one first."""
    alone = [resampled_figures(counts, tally.figures, samples=0, seed=0, times=tally.times) for counts in tally.counts]
    return [_of_all_texts(found, tally.shown) for found in alone]


def _of_all_texts(resampled: Figures, shown: tuple[str, ...]) -> dict[str, float]:
    return {name: float(resampled[name][0]) for name in shown}


def compare(tally: Tally, *, alpha: float, margin: float, samples: int = SAMPLES, seed: int = 0) -> Comparison:
    """Compare two models, the champion and then the challenger.

    Args:
        tally: of both.
        alpha: significance level of the tests; the interval has confidence 1 - alpha.
        margin: how much of the leading figure, as a share of its highest value, the challenger may lose and still be
            called not worse.
        samples: S. A resample draws whole texts with replacement, the same ones for both (paired bootstrap).

    Raises:
        HallmarkError: there are no texts.
    """
    examples, leading = int(tally.times.sum()), tally.shown[0]
    if examples == 0:
        raise HallmarkError("without any text nothing can be compared")
    old, new = (
        resampled_figures(counts, tally.figures, samples=samples, seed=seed, times=tally.times)
        for counts in tally.counts
    )
    differences_S = new[leading] - old[leading]
    low, high = np.quantile(differences_S[1:], [alpha / 2, 1 - alpha / 2])
    difference = Difference(float(differences_S[0]), float(low), float(high))
    discordant = find_discordant(tally) if tally.right else None
    margin = margin * highest(leading)
    return Comparison(
        examples=examples,
        champion=_of_all_texts(old, tally.shown),
        challenger=_of_all_texts(new, tally.shown),
        difference=difference,
        discordant=discordant,
        alpha=alpha,
        margin=margin,
        verdict=decide(difference, _is_lost(discordant, alpha), margin) if examples >= FEWEST else "inconclusive",
    )


def find_discordant(tally: Tally) -> Discordant:
    """Count the texts that only one of two models has right, and test whether they are equally many."""
    old_N, new_N = tally.right
    only_old, only_new = (int(tally.times[mine & ~theirs].sum()) for mine, theirs in ((old_N, new_N), (new_N, old_N)))
    return Discordant(only_old, only_new, mcnemar_p_value(only_old, only_new))


def _is_lost(found: Discordant | None, alpha: float) -> bool:
    """Whether the challenger has significantly fewer texts right."""
    return found is not None and found.only_challenger < found.only_champion and found.p_value < alpha


def decide(difference: Difference, accuracy_lost: bool, margin: float) -> Verdict:
    """The verdict; the leading figure leads, a significant loss of texts that are right vetoes.

    - better: the whole interval of the difference is above 0.
    - worse: accuracy is significantly lower, or the whole interval is below 0 and reaches below -margin.
    - not worse: the whole interval is at or above -margin.
    - inconclusive: the interval says neither, or the leading figure rose while accuracy fell.

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
