"""What a sweep builds: settings x seeds, from a small YAML file or the command line, checked before anything runs.

    name: positions                 # names the folder .hallmark/sweeps/positions
    grid:                           # every combination; or `list`, with one mapping per setting
      model.positions: [rotary, learned, alibi]
    seeds: [1, 2, 3]
    metric: [pretrain.bits_per_byte, tasks.library.macro_f1]

The first setting is the reference. Nothing here knows Prefect.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from flows.command import parse_settings
from flows.plan import Step, make_plan
from flows.workspace import check_overrides
from pipeline.common.errors import HallmarkError, Problems, allowed
from pipeline.common.files import sha256_json
from pipeline.evaluation.ranked_sweep import label_of

KEYS = ("name", "grid", "list", "seeds", "target", "metric", "parallel")
SEEDS = (1, 2, 3)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
EXAMPLE = "python -m flows.sweep --grid finetune.learning_rate=1e-4,3e-4 --seeds 1,2,3"
EVALUATE = "evaluate@"


@dataclass(frozen=True)
class ArmPlan:
    """One setting with one seed."""

    settings: Mapping[str, Any]
    seed: int

    @property
    def overrides(self) -> dict[str, Any]:
        return {**self.settings, "seed": self.seed}

    @property
    def id(self) -> str:
        """Names its folder. It is not what a finished arm is recognised by (`flows.arm_build`)."""
        return sha256_json(self.overrides)[:16]

    @property
    def label(self) -> str:
        return f"{label_of(self.settings)}, seed {self.seed}"


@dataclass(frozen=True)
class SweepPlan:
    """A whole sweep, checked.

    Attributes:
        name: names its folder and its run in MLflow.
        settings: dotted names to values; the first one is the reference.
        seeds: every setting is built with each.
        targets: the stages that the figures come from; they and what they need are built.
        metrics: the figures to compare by; the first leads.
        parallel: arms built at once.
    """

    name: str
    settings: tuple[Mapping[str, Any], ...]
    seeds: tuple[int, ...]
    targets: tuple[str, ...]
    metrics: tuple[str, ...]
    parallel: int = 1

    @property
    def arms(self) -> list[ArmPlan]:
        """Every arm, the seeds of one setting after each other."""
        return [ArmPlan(settings, seed) for settings in self.settings for seed in self.seeds]

    def describe(self) -> dict[str, Any]:
        """The sweep as it is recorded."""
        return {
            "name": self.name,
            "settings": [dict(settings) for settings in self.settings],
            "seeds": list(self.seeds),
            "targets": list(self.targets),
            "metrics": list(self.metrics),
        }


def plan_sweep(request: Mapping[str, Any], root: Path) -> SweepPlan:
    """Check a request, as the YAML file above has it, against the project in `root`.

    Raises:
        HallmarkError: all that is wrong with it and with the settings of all arms, at once, with what is allowed.
    """
    problems = Problems("the sweep")
    for key in sorted(set(request) - set(KEYS)):
        problems.add(f"{key}: unknown key; {allowed(KEYS)}")
    settings = list(_settings(request, problems))
    seeds = _listed(request.get("seeds", SEEDS))
    if not seeds or not all(isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0 for seed in seeds):
        problems.add(f"seeds: whole numbers from 0 on, not {request['seeds']!r}")
    parallel = request.get("parallel", 1)
    if not isinstance(parallel, int) or isinstance(parallel, bool) or parallel < 1:
        problems.add(f"parallel: a whole number from 1 on, not {parallel!r}")
    name = request.get("name") or _default_name(settings)
    if not isinstance(name, str) or not NAME.fullmatch(name):
        problems.add(f"name: letters, digits and . _ - (it names a folder), not {name!r}")
    steps = make_plan(root)
    targets, metrics = _targets_and_metrics(request, steps, problems)
    for problem, arms in _wrong_settings(root, settings).items():
        problems.add(problem if len(arms) == len(settings) else f"{problem}   (in {'; '.join(arms)})")
    problems.raise_if_any(fix=EXAMPLE)
    return SweepPlan(name, tuple(settings), tuple(dict.fromkeys(seeds)), targets, metrics, parallel)


def read_request(path: Path) -> dict[str, Any]:
    """Read a sweep file. As DVC reads YAML: to PyYAML, whose YAML is 1.1, the number 1e-4 is a text."""
    from dvc.exceptions import DvcException
    from dvc.utils.serialize import parse_yaml

    try:
        request = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise HallmarkError("there is no such file", where=str(path), fix=EXAMPLE) from None
    except (DvcException, UnicodeDecodeError) as error:
        raise HallmarkError(f"this is not YAML: {error}", where=str(path), fix="mend the line named") from None
    if not isinstance(request, dict):
        raise HallmarkError(f"a sweep is a mapping; {allowed(KEYS)}", where=str(path), fix=EXAMPLE)
    return request


def parse_grid(pairs: Sequence[str]) -> dict[str, list[Any]]:
    """["a.b=1,2", 'c=["x","y"]'] -> {"a.b": [1, 2], "c": ["x", "y"]}: values by commas, or one JSON list."""
    grid: dict[str, list[Any]] = {}
    for pair in pairs:
        for name, value in parse_settings([pair], "--grid").items():
            if isinstance(value, list):
                grid[name] = value
            else:
                texts = pair.partition("=")[2].split(",")
                grid[name] = [parse_settings([f"{name}={text}"], "--grid")[name] for text in texts]
    return grid


def needed(steps: Sequence[Step], targets: Sequence[str]) -> list[Step]:
    """The targets and all that they need, in order."""
    wanted = set(targets)
    for step in reversed(steps):
        if step.name in wanted:
            wanted |= set(step.upstream)
    return [step for step in steps if step.name in wanted]


def _settings(request: Mapping[str, Any], problems: Problems) -> Iterator[dict[str, Any]]:
    grid, listed = request.get("grid"), request.get("list")
    if (grid is None) == (listed is None):
        problems.add("either `grid` (name: list of values) or `list` (of mappings from name to value) is needed")
    elif grid is not None:
        if not isinstance(grid, Mapping) or not all(isinstance(values, list) and values for values in grid.values()):
            problems.add(f"grid: every name needs a list of values, not {grid!r}")
            return
        for values in product(*grid.values()):
            yield dict(zip(grid, values, strict=True))
    elif not isinstance(listed, list) or not listed or not all(isinstance(arm, Mapping) for arm in listed):
        problems.add(f"list: a list of mappings from name to value, not {listed!r}")
    else:
        yield from (dict(arm) for arm in listed)


def _wrong_settings(root: Path, settings: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """What is wrong with the settings, and in which of them."""
    found: dict[str, list[str]] = {}
    labels = [label_of(arm) for arm in settings]
    for label in {label for label in labels if labels.count(label) > 1}:
        found[f"{label}: named twice"] = [label]
    for label, arm in zip(labels, settings, strict=True):
        if "seed" in arm:
            found.setdefault("seed: belongs in `seeds`, since the seeds pair the arms", []).append(label)
        try:
            check_overrides(root, arm)
        except HallmarkError as error:
            for problem in error.what.split("\n  - ")[1:] or [error.what]:
                found.setdefault(problem, []).append(label)
    return found


def _targets_and_metrics(
    request: Mapping[str, Any], steps: Sequence[Step], problems: Problems
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which stages to build and which figures to compare: each follows from the other where only one is given."""
    sections = {_section(step.name): step.name for step in steps if step.metrics}
    targets = [name for target in _listed(request.get("target")) for name in _stages_of(target, steps, problems)]
    metrics = _listed(request.get("metric"))
    owners = [_owner(metric, sections, problems) for metric in metrics]
    if not targets and not metrics:
        targets = _stages_of("evaluate", steps, problems)
    targets += [owner for owner in owners if owner is not None and owner not in targets]
    return tuple(dict.fromkeys(targets)), tuple(metrics) or _default_metrics(needed(steps, targets))


def _default_metrics(steps: Sequence[Step]) -> tuple[str, ...]:
    names = [step.name for step in steps]
    tasks = [f"{_section(name)}.macro_f1" for name in names if name.startswith(EVALUATE)]
    return (*tasks, *(["pretrain.bits_per_byte"] if "pretrain" in names else []))


def _section(stage: str) -> str:
    """How the figures of a stage begin, as `pipeline.tracking.builds.headline` names them."""
    return f"tasks.{stage.removeprefix(EVALUATE)}" if stage.startswith(EVALUATE) else stage.replace("@", ".")


def _stages_of(target: Any, steps: Sequence[Step], problems: Problems) -> list[str]:
    """`evaluate` means every evaluate@TASK."""
    names = [step.name for step in steps]
    found = [name for name in names if target in (name, name.partition("@")[0])]
    if not found:
        problems.add(f"target: there is no stage {target!r}; {allowed(names)}")
    return found


def _owner(metric: Any, sections: Mapping[str, str], problems: Problems) -> str | None:
    """The stage that writes a figure."""
    found = [stage for section, stage in sections.items() if str(metric).startswith(f"{section}.")]
    if not found:
        places = allowed(f"{section}.FIGURE" for section in sections)
        problems.add(f"metric: no stage writes {metric!r}; {places} (such as pretrain.bits_per_byte)")
        return None
    return found[0]


def _default_name(settings: Sequence[Mapping[str, Any]]) -> str:
    """{"model.positions": ...} -> "positions"."""
    keys = dict.fromkeys(key for arm in settings for key in arm)
    return "-".join(key.rpartition(".")[2] for key in keys) or "sweep"


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]
