"""What a rebuild shows in Prefect's UI: a table of its stages and figures, as Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.plan import Step
from pipeline.common.files import read_json

DEEPEST = 2  # tables of figures per class are in the report


@dataclass(frozen=True)
class Result:
    """What became of one stage."""

    outcome: str  # ran, restored, unchanged, failed, not run
    seconds: float = 0.0
    message: str = ""


def result_page(folder: Path, steps: Sequence[Step], results: Mapping[str, Result], heading: str) -> str:
    """The stages with their outcome, then every headline figure of the build in `folder`."""
    lines = [f"# {heading}", "", "| stage | outcome | seconds | because of |", "|---|---|---:|---|"]
    for step in steps:
        result = results.get(step.name, Result("not run"))
        seconds = f"{result.seconds:.1f}" if result.seconds else ""
        lines.append(f"| {_cell(step.name)} | {result.outcome} | {seconds} | {_cell(', '.join(step.changes[:3]))} |")
    lines += ["", "| stage | figure | value |", "|---|---|---:|"]
    for step in steps:
        for path in step.metrics:
            if (folder / path).exists():
                lines += [f"| {_cell(step.name)} | {_cell(name)} | {value} |" for name, value in figures(folder / path)]
    return "\n".join(lines) + "\n"


def figures(path: Path) -> Iterator[tuple[str, str]]:
    """The headline figures of a metrics file, ready to print; {value, low, high} as one figure with its interval."""
    yield from _walk(read_json(path), "", DEEPEST)


def _walk(values: Mapping[str, Any], prefix: str, deepest: int) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and {"value", "low", "high"} <= set(value):
            yield prefix + name, f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
        elif isinstance(value, Mapping) and deepest > 0:
            yield from _walk(value, f"{prefix}{name}.", deepest - 1)
        elif isinstance(value, float):
            yield prefix + name, f"{value:.4g}"
        elif isinstance(value, str | int):
            yield prefix + name, _cell(str(value))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
