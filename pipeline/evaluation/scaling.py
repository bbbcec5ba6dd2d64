"""Which size of network, trained on how many tokens, is best for a budget of FLOPs: a law fitted to a ladder of runs.

    L(N, D) = E + A / N^alpha + B / D^beta        (Hoffmann et al. 2022, arXiv:2203.15556, eq. 2, approach 3)

L is the loss on unseen text in nats per target and D the tokens of the training. N is here the training's FLOPs per
token over 6: the weights that each token is multiplied by and what attention costs beside them, so that FLOPs = 6 N D
holds exactly (DeepSeek-AI 2024, arXiv:2401.02954, section 3.2, scale by FLOPs per token for the same reason).

Legend: R runs, P the five unknowns.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.optimize import minimize

from pipeline.common.errors import Problems
from pipeline.evaluation.intervals import Interval

HUBER = 1e-3  # as in the paper: larger errors of the log loss count linearly
LEAST_RUNGS = 6  # different (N, D): one more than there are constants
LEAST_SIZES = LEAST_LENGTHS = 3  # two of them fix no exponent
LEAST_SPAN = 4.0  # the largest over the smallest
WIDEST = 4.0  # high over low, of an interval that one can still choose a size by
FARTHEST = 30.0  # budget over the FLOPs of the largest run
BEST_STARTS, RESTARTS = 12, 2  # searches for the fit, and for each resample, of which one begins at the fit
EXPONENTS = (0.02, 3.0)
# Of log E, log of the two terms in the middle of the ladder, and the exponents: where the searches begin.
STARTS = np.array(
    list(product((-1.0, -0.5, 0.0, 0.5, 1.0), (-4.0, -2.0, -1.0, 0.0, 1.0), (-4.0, -2.0, -1.0, 0.0, 1.0),
                 (0.2, 0.5, 1.0), (0.2, 0.5, 1.0)))
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """One training: `size` N, `tokens` D and its `loss` on unseen text; `name` says which it was."""

    name: str
    size: float
    tokens: float
    loss: float


@dataclass(frozen=True)
class ScalingLaw:
    """E + A / N^alpha + B / D^beta."""

    irreducible: float
    a: float
    b: float
    alpha: float
    beta: float

    def loss(self, size: float, tokens: float) -> float:
        return self.irreducible + self.a / size**self.alpha + self.b / tokens**self.beta

    def optimum(self, flops: float) -> tuple[float, float]:
        """The N and D of the lowest loss with 6 N D = `flops` (Hoffmann et al. 2022, eq. 4)."""
        ratio = (self.alpha * self.a / (self.beta * self.b)) ** (1 / (self.alpha + self.beta))
        size = ratio * (flops / 6) ** (self.beta / (self.alpha + self.beta))
        return size, flops / 6 / size


@dataclass(frozen=True)
class Scaling:
    """A fitted ladder.

    Attributes:
        runs: what was fitted.
        law: the fit.
        flops: the budget.
        figures: "size", "tokens" and "loss" at the optimum, the constants "irreducible", "alpha" and "beta", each with
            its interval.
        error: root mean square of the log loss's residuals, so about the relative error of the fit.
        remarks: why these figures are not to be trusted, if they are not; nothing if there is no reason.
        confidence, samples: of the intervals.
    """

    runs: tuple[Run, ...]
    law: ScalingLaw
    flops: float
    figures: dict[str, Interval]
    error: float
    remarks: tuple[str, ...]
    confidence: float
    samples: int

    @property
    def is_sure(self) -> bool:
        return not self.remarks


def fit_scaling(
    runs: Sequence[Run], flops: float, *, samples: int = 200, confidence: float = 0.9, seed: int = 1
) -> Scaling:
    """Fit the law and find the optimum for a budget, with bootstrap intervals.

    The bootstrap draws residuals, not runs: a ladder is a design, and without one of its ends it fixes nothing (Efron
    and Tibshirani 1993, section 9.4). Since a fit of five constants takes up a part of the noise, the residuals are
    widened by sqrt(R / (R - P)).

    Args:
        runs: at least `LEAST_RUNGS` different (N, D), some at the same one with other seeds.
        flops: the budget of one training.
        samples: resamples behind each interval.
        confidence: share of the resamples that an interval holds.
        seed: decides the resamples.

    Raises:
        HallmarkError: all that is wrong with the runs and the budget, at once.
    """
    _check(runs, flops)
    ladder = _Ladder.of(runs)
    found = ladder.search(ladder.log_loss)
    law, fitted = ladder.law(found), ladder.predict(found)
    residuals = ladder.log_loss - fitted
    wide = residuals * math.sqrt(len(runs) / max(1, len(runs) - len(found)))
    wide = wide - wide.mean()
    generator = np.random.default_rng(seed)
    drawn: list[dict[str, float]] = []
    for _ in range(samples):
        again = ladder.search(fitted + generator.choice(wide, size=len(wide)), near=found)
        drawn.append(_figures(ladder.law(again), flops))
    tail = (1 - confidence) / 2
    figures: dict[str, Interval] = {}
    for name, value in _figures(law, flops).items():
        low, high = np.quantile([sample[name] for sample in drawn], [tail, 1 - tail])
        figures[name] = {"value": value, "low": float(low), "high": float(high)}
    error = float(np.sqrt(np.mean(residuals**2)))
    return Scaling(
        tuple(runs), law, flops, figures, error, tuple(_remarks(runs, law, flops, figures)), confidence, samples
    )


def _figures(law: ScalingLaw, flops: float) -> dict[str, float]:
    size, tokens = law.optimum(flops)
    constants = {"irreducible": law.irreducible, "alpha": law.alpha, "beta": law.beta}
    return {"size": size, "tokens": tokens, "loss": law.loss(size, tokens), **constants}


@dataclass(frozen=True)
class _Ladder:
    """The runs as the search sees them: logarithms, N and D measured from their geometric mean.

    From there the exponents and the sizes of the terms are nearly independent, which makes the search short. The
    unknowns x_P are log E, log of the two terms in the middle of the ladder, alpha and beta.
    """

    log_size: np.ndarray
    log_tokens: np.ndarray
    log_loss: np.ndarray
    middle: tuple[float, float]

    @classmethod
    def of(cls, runs: Sequence[Run]) -> "_Ladder":
        size, tokens, loss = (np.log([getattr(run, name) for run in runs]) for name in ("size", "tokens", "loss"))
        middle = float(size.mean()), float(tokens.mean())
        return cls(size - middle[0], tokens - middle[1], loss, middle)

    def law(self, x: np.ndarray) -> ScalingLaw:
        a, b = x[1] + x[3] * self.middle[0], x[2] + x[4] * self.middle[1]
        return ScalingLaw(*(float(value) for value in (np.exp(x[0]), np.exp(a), np.exp(b), x[3], x[4])))

    def terms(self, x: np.ndarray) -> np.ndarray:
        """Logarithms of the three terms, (3, R); of several x (S, P) at once, (3, S, R)."""
        one = [x[..., number, None] for number in range(5)]
        zero = np.zeros_like(self.log_size)
        return np.stack((one[0] + zero, one[1] - one[3] * self.log_size, one[2] - one[4] * self.log_tokens))

    def predict(self, x: np.ndarray) -> np.ndarray:
        return np.logaddexp.reduce(self.terms(x), axis=0)

    def search(self, log_loss: np.ndarray, near: np.ndarray | None = None) -> np.ndarray:
        """The unknowns with the least summed Huber loss, by L-BFGS from the best of a grid, or from `near` too."""
        errors_SR = self.predict(STARTS) - log_loss
        order = np.argsort(_huber(errors_SR)[0].sum(axis=-1), kind="stable")
        starts = [*STARTS[order[: BEST_STARTS if near is None else RESTARTS - 1]], *([] if near is None else [near])]
        bounds = [(-12.0, float(log_loss.min())), (-15.0, 15.0), (-15.0, 15.0), EXPONENTS, EXPONENTS]
        options = {"maxiter": 2000, "ftol": 1e-14, "gtol": 1e-10}
        found = [
            minimize(self._objective, start, (log_loss,), "L-BFGS-B", jac=True, bounds=bounds, options=options)
            for start in starts
        ]
        return min(found, key=lambda result: result.fun).x

    def _objective(self, x: np.ndarray, log_loss: np.ndarray) -> tuple[float, np.ndarray]:
        """The summed Huber loss over HUBER^2, so that the search's own tolerances mean something; and its gradient."""
        terms_3R = self.terms(x)
        predicted_R = np.logaddexp.reduce(terms_3R, axis=0)
        value_R, slope_R = _huber(predicted_R - log_loss)
        shares_3R = np.exp(terms_3R - predicted_R) * slope_R
        pulls = [-(shares_3R[1] * self.log_size).sum(), -(shares_3R[2] * self.log_tokens).sum()]
        return value_R.sum() / HUBER**2, np.array([*shares_3R.sum(axis=1), *pulls]) / HUBER**2


def _huber(errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Huber's loss and its slope: quadratic within HUBER, linear beyond."""
    size = np.abs(errors)
    return np.where(size <= HUBER, errors**2 / 2, HUBER * (size - HUBER / 2)), np.clip(errors, -HUBER, HUBER)


def _check(runs: Sequence[Run], flops: float) -> None:
    problems = Problems("the ladder")
    for run in runs:
        if not all(math.isfinite(value) and value > 0 for value in (run.size, run.tokens, run.loss)):
            problems.add(f"{run.name}: size {run.size}, tokens {run.tokens}, loss {run.loss}: all are above 0")
    if not (math.isfinite(flops) and flops > 0):
        problems.add(f"the budget is {flops} FLOPs: it is above 0")
    problems.found += rungs_missing(runs)
    problems.raise_if_any(fix="give more depths or token counts: python -m flows.scaling --help")


def rungs_missing(runs: Sequence[Run]) -> list[str]:
    """What a ladder lacks to fix the five constants at all."""
    rungs = {(run.size, run.tokens) for run in runs}
    found = []
    if len(rungs) < LEAST_RUNGS:
        found.append(f"{len(rungs)} different (size, tokens) are too few for five constants: at least {LEAST_RUNGS}")
    for values, least, name in (
        ({size for size, _ in rungs}, 2, "sizes"),
        ({tokens for _, tokens in rungs}, 2, "token counts"),
    ):
        if len(values) < least:
            found.append(f"{len(values)} different {name}: at least {least}, better {LEAST_SIZES}")
    return found


def _remarks(runs: Sequence[Run], law: ScalingLaw, flops: float, figures: dict[str, Interval]) -> list[str]:
    found = []
    for name, values, least in (
        ("sizes", [run.size for run in runs], LEAST_SIZES),
        ("token counts", [run.tokens for run in runs], LEAST_LENGTHS),
    ):
        different, span = len(set(values)), max(values) / min(values)
        if different < least:
            found.append(f"The ladder is too small: {different} {name}, and an exponent needs at least {least}.")
        if span < LEAST_SPAN:
            found.append(f"The ladder is too short: its {name} span a factor of {span:.1f}, less than {LEAST_SPAN:g}.")
    for name, exponent in (("alpha", law.alpha), ("beta", law.beta)):
        if exponent <= EXPONENTS[0] * 1.01 or exponent >= EXPONENTS[1] * 0.99:
            found.append(f"The fit gave no {name}: it ran to the end of the allowed range, {exponent:.2f}.")
    for name, what in (("size", "size"), ("tokens", "number of tokens")):
        width = figures[name]["high"] / figures[name]["low"]
        if width > WIDEST:
            found.append(f"The interval of the best {what} is too wide to choose by: a factor of {width:.1f}.")
    largest = max(6 * run.size * run.tokens for run in runs)
    if flops > FARTHEST * largest:
        found.append(f"The budget is {flops / largest:.0f} times the largest run: too far from what was measured.")
    return found
