"""What the tasks reach on public data, by the real parts and from the data alone.

    multi30k   English to German captions (29,000 pairs) from random weights: BLEU on test_2016_flickr

Each task learns with the settings of its module in benchmarks/arms, in a process of its own and with a cold cache of
compilations. Its seconds are those from the files to the trained network.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.choices import choose
from benchmarks.machine import describe_machine
from benchmarks.shakespeare import in_own_process
from benchmarks.tables import format_table
from pipeline.common.errors import HallmarkError

Found = dict[str, Any]
TASKS = ("multi30k",)
TARGETS = {"multi30k": 38.0}  # of the task's first figure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="has a folder for each task")
    parser.add_argument("--only", default="all", help=f"of {', '.join(TASKS)}, with commas (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--epochs", type=int, help="of every task, for a first look (default: each task's own)")


def run(options: argparse.Namespace) -> Found:
    """Train and measure every chosen task, one after another.

    Returns:
        "machine", "seed", "tasks": {TASK: what its function in `benchmarks.arms` found, and "target"}.

    Raises:
        HallmarkError: an unknown task, or there is no data of it.
    """
    chosen = choose(options.only, TASKS, "--only")
    for task in chosen:
        if not (options.data / task).is_dir():
            raise HallmarkError("there is no such folder", where=str(options.data / task), fix="see docs/tasks.md")
    works = _works()
    return {
        "machine": describe_machine(),
        "seed": options.seed,
        "tasks": {
            task: in_own_process(works[task], options.data, options.seed, options.epochs) | {"target": TARGETS[task]}
            for task in chosen
        },
    }


def _works() -> dict[str, Callable[..., Found]]:
    from benchmarks.arms import translation

    return {"multi30k": translation.multi30k}


def format_result(result: Found) -> str:
    """The result as one table a task."""
    formats = {"multi30k": format_translation}
    return "\n\n".join(formats[task](task, found) for task, found in result["tasks"].items())


def format_translation(task: str, found: Found) -> str:
    bleu, chrf = found["figures"]["bleu"], found["figures"]["chrf"]
    title = (
        f"{task}: BLEU {bleu['value']:.2f} ({bleu['low']:.2f} to {bleu['high']:.2f}) on {found['test_rows']:,} texts, "
        f"greedy {found['greedy_bleu']:.2f}, wanted {found['target']:g}; chrF {chrf['value']:.2f}\n"
        f"{found['parameters'] / 1e6:.1f}M parameters, {found['epochs']} epochs of {found['pairs']:,} pairs, "
        f"{found['steps']:,} steps, {'compiled' if found['compiled'] else 'eager'}: {found['seconds'] / 60:.1f} min; "
        f"translated in {found['writing_seconds']:.0f} s\n{found['signatures']['bleu']}"
    )
    rows = [
        (f"{point['seconds'] / 60:.1f}", f"{point['loss']:.3f}", f"{point['bleu']:.2f}", f"{point['chrf']:.2f}")
        for point in found["curve"]
    ]
    return f"{title}\n\n{format_table(('minutes', 'validation loss', 'BLEU, greedy', 'chrF'), rows)}"
