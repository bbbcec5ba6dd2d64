"""A sweep's arms to what is shown of them: a ranked table per figure, what each setting cost, and every arm.

An arm is one setting with one seed, as `flows.arm_build` writes it down:

    {"settings": {dotted name: value}, "seed", "build", "key": the last stage's, "stages": {name: stage key},
     "sources": {path: md5}, "figures": {name: float}, "predictions": {task: path}, "error": None or what went wrong}
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from pipeline.common.files import canonical_json
from pipeline.common.tables import read_table
from pipeline.evaluation.ranking import (
    ALPHA,
    Answers,
    Contrast,
    Ranked,
    flops_are_equal,
    is_lower_better,
    judge,
    rank,
)
from pipeline.evaluation.tables import Table

Arm = Mapping[str, Any]
COSTS = {"pretrain.training_flops": "training FLOPs", "pretrain.tokens": "tokens", "pretrain.parameters": "parameters"}
FLOPS = "pretrain.training_flops"
BEST, REFERENCE = "best", "reference"


@dataclass(frozen=True)
class RankedSweep:
    """All that is shown of a sweep, and the rankings behind it by figure."""

    name: str
    seeds: list[int]
    method: str
    tables: list[Table]
    failures: list[tuple[str, str]]  # arm, error
    remarks: list[str]
    rankings: dict[str, list[Ranked]] = field(default_factory=dict)


def label_of(settings: Mapping[str, Any]) -> str:
    """{"model.depth": 4, "source.path": "a"} -> "model.depth=4, source.path=a"."""
    texts = (value if isinstance(value, str) else canonical_json(value) for value in settings.values())
    return ", ".join(f"{name}={text}" for name, text in zip(settings, texts, strict=True)) or "as in params.yaml"


def arm_label(arm: Arm) -> str:
    return f"{label_of(arm['settings'])}, seed {arm['seed']}"


def rank_sweep(name: str, arms: Sequence[Arm], metrics: Sequence[str], alpha: float = ALPHA) -> RankedSweep:
    """Rank the settings by each figure. The first arm's setting is the reference.

    Args:
        name: the sweep's.
        arms: see above; those with an error are listed with it.
        metrics: names of figures; those that no arm has are remarked on.
        alpha: significance level of the tests.
    """
    arms = _with_short_labels(arms)
    labels = list(dict.fromkeys(arm["label"] for arm in arms))
    good = [arm for arm in arms if arm["error"] is None]
    flops = {label: _mean(good, label, FLOPS) for label in labels}
    tables, rankings, remarks = [], {}, _remarks(good)
    for metric in metrics:
        scores = {label: _scores(good, label, metric) for label in labels}
        if not any(scores.values()):
            remarks.append(f"No arm has the figure {metric}.")
            continue
        answers = {label: _answers(good, label, metric) for label in labels}
        rankings[metric] = rank(scores, lower=is_lower_better(metric), answers=answers, alpha=alpha)
        tables.append(_ranked_table(metric, rankings[metric], labels[0], flops, alpha))
    tables += [_cost_table(good, labels), _arm_table(arms, metrics)]
    failures = [(arm_label(arm), str(arm["error"])) for arm in arms if arm["error"] is not None]
    seeds = list(dict.fromkeys(arm["seed"] for arm in arms))
    return RankedSweep(
        name, seeds, _method(alpha), [table for table in tables if table.rows], failures, remarks, rankings
    )


def _with_short_labels(arms: Sequence[Arm]) -> list[Arm]:
    """Each arm with its setting's label, in which names are as short as they can be: "learning_rate=0.001"."""
    names = dict.fromkeys(name for arm in arms for name in arm["settings"])
    ends = [name.rpartition(".")[2] for name in names]
    short = {name: end if ends.count(end) == 1 else name for name, end in zip(names, ends, strict=True)}
    return [{**arm, "label": label_of({short[name]: value for name, value in arm["settings"].items()})} for arm in arms]


def _of(arms: Sequence[Arm], label: str) -> list[Arm]:
    return [arm for arm in arms if arm["label"] == label]


def _scores(arms: Sequence[Arm], label: str, metric: str) -> dict[int, float]:
    return {arm["seed"]: arm["figures"][metric] for arm in _of(arms, label) if metric in arm["figures"]}


def _mean(arms: Sequence[Arm], label: str, metric: str) -> float | None:
    values = list(_scores(arms, label, metric).values())
    return fmean(values) if values else None


def _answers(arms: Sequence[Arm], label: str, metric: str) -> Answers:
    """The predictions behind tasks.TASK.macro_f1, by seed; nothing for other figures."""
    section, _, rest = metric.partition(".")
    task, _, figure = rest.rpartition(".")
    if section != "tasks" or figure != "macro_f1":
        return {}
    paths = {arm["seed"]: Path(arm["predictions"][task]) for arm in _of(arms, label) if task in arm["predictions"]}
    return {seed: read_table(path, ["id", "label", "predicted"]) for seed, path in paths.items() if path.exists()}


def _remarks(arms: Sequence[Arm]) -> list[str]:
    seen: dict[str, set[str]] = {}
    for arm in arms:
        for path, md5 in arm["sources"].items():
            seen.setdefault(path, set()).add(md5)
    changed = sorted(path for path, found in seen.items() if len(found) > 1)
    if not changed:
        return []
    return [f"Not all arms were built from the same {', '.join(changed)}: start the sweep again to bring them in line."]


def _ranked_table(
    metric: str, ranking: Sequence[Ranked], reference: str, flops: Mapping[str, float | None], alpha: float
) -> Table:
    lower, best = is_lower_better(metric), ranking[0].label
    equal = flops_are_equal([flops[row.label] for row in ranking])
    rows = []
    for row in ranking:
        deviation = "" if row.deviation is None else f"{row.deviation:.4f}"
        cells = [row.label, f"{row.mean:.4f}", deviation, str(row.seeds)]
        for other, name, contrast in ((reference, REFERENCE, row.to_reference), (best, BEST, row.to_best)):
            ratio = _ratio(flops, row.label, other)
            cells.append(name if row.label == other else _verdict(contrast, ratio, lower, alpha))
        if equal is False:
            cells.append("" if (ratio := _ratio(flops, row.label, reference)) is None else f"{ratio:.2f}")
        rows.append(cells)
    columns = ["setting", "mean", "sd", "n", "against the reference", "against the best"]
    columns += ["FLOPs / reference"] if equal is False else []
    title = f"{metric}, {'lower' if lower else 'higher'} is better"
    return Table(title, _caption(ranking, equal), columns, rows, words=frozenset({0, 4, 5}))


def _verdict(contrast: Contrast | None, ratio: float | None, lower: bool, alpha: float) -> str:
    """Verdict, difference with interval, and corrected p; at unequal FLOPs never without saying so."""
    if contrast is None:
        return "noise: the other has no figure"
    word = judge(contrast, lower=lower, alpha=alpha)
    if word in ("better", "worse") and ratio is not None and not flops_are_equal([1.0, ratio]):
        word = f"{word} at {ratio:.2f} x its FLOPs"
    found = contrast.over_seeds
    if found is None:
        return word
    if contrast.seeds == 1:
        return f"{word}; {found.value:+.4f}"
    intervals = f"seeds {found.low:+.4f} to {found.high:+.4f}"
    if contrast.over_examples is not None:
        intervals += f", examples {contrast.over_examples.low:+.4f} to {contrast.over_examples.high:+.4f}"
    return f"{word}; {found.value:+.4f} ({intervals}), p {contrast.p_value:.3f}"


def _ratio(flops: Mapping[str, float | None], label: str, other: str) -> float | None:
    mine, others = flops[label], flops[other]
    return mine / others if mine and others else None


def _caption(ranking: Sequence[Ranked], equal: bool | None) -> str:
    flops = {
        True: "All settings had equal training FLOPs in pretraining, within 2 %.",
        False: "The settings had UNEQUAL training FLOPs in pretraining: a better one may only have had more of them.",
        None: "The training FLOPs of pretraining are not known for every setting, nor whether they were equal.",
    }[equal]
    contrasts = [found for row in ranking for found in (row.to_reference, row.to_best) if found is not None]
    if any(found.over_examples for found in contrasts):
        return f"{flops} Tested over seeds and over test examples: the larger p counts."
    return f"{flops} Tested over seeds."


def _method(alpha: float) -> str:
    return (
        f"Mean and standard deviation (sd) over n seeds. Differences are on the seeds that both settings have, with "
        f"{100 * (1 - alpha):g} % intervals: paired t-test over the seeds and, for a task's macro-F1, paired bootstrap "
        f"of the pooled predictions over the test examples. p is corrected by Holm: against the reference over the "
        f"comparisons with it, against the best over all pairs. Better and worse: p below {alpha:g}; else it is noise."
    )


def _cost_table(arms: Sequence[Arm], labels: Sequence[str]) -> Table:
    """What each setting's pretraining cost: means over the seeds of what its metrics tell."""
    costs = {label: [_mean(arms, label, metric) for metric in COSTS] for label in labels}
    rows = [
        [label, *("" if value is None else f"{value:,.0f}" if value < 1e9 else f"{value:.3e}" for value in values)]
        for label, values in costs.items()
        if any(value is not None for value in values)
    ]
    return Table("What pretraining cost", "Means over the seeds.", ["setting", *COSTS.values()], rows)


def _arm_table(arms: Sequence[Arm], metrics: Sequence[str]) -> Table:
    rows = []
    for arm in arms:
        figures = [f"{arm['figures'][metric]:.4f}" if metric in arm["figures"] else "" for metric in metrics]
        state = "failed" if arm["error"] else "finished"
        rows.append([arm["label"], state, arm["build"], arm["key"][:12], str(arm["seed"]), *figures])
    columns = ["setting", "", "build", "last stage key", "seed", *metrics]
    return Table(
        "Every arm",
        "One build each; `hallmark` tags its runs in MLflow by these.",
        columns,
        rows,
        words=frozenset(range(4)),
    )
