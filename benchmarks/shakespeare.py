"""Seconds until tiny Shakespeare is learned as well as nanoGPT learns it: characters, the last tenth held out.

    small   nanoGPT on a CPU: 4 layers of width 128, 2,000 steps of 12 rows of 64 characters; its loss: 1.8857
    large   nanoGPT on a GPU: 6 layers of width 384 with dropout, 5,000 steps of 64 rows of 256; its loss: 1.4697
    gpu     the same, for us to reach on a GPU, too: with nanoGPT's shape

The losses are those that nanoGPT publishes. Each arm trains for its own fixed number of steps, in a process of its own
and with a cold cache of compilations, and is then measured on all of the held-out text. Its seconds are those from the
tokens to that figure: the network's making, compiling, training and validation.

nanoGPT runs as it documents: on a CPU eager and in float32, on a GPU compiled and in bfloat16. Its large arm would take
hours on a CPU.
"""

import argparse
import os
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.choices import choose
from benchmarks.machine import cold_compilations, describe_machine
from benchmarks.tables import format_table
from pipeline.common.errors import HallmarkError
from pipeline.common.processes import die_with_parent

TARGETS = {"small": 1.8857, "large": 1.4697, "gpu": 1.4697}
PEERS = {"small": "nanogpt-small", "large": "nanogpt-large", "gpu": "nanogpt-large"}
ARMS = ("hallmark-small", "nanogpt-small", "hallmark-large", "nanogpt-large", "hallmark-gpu")
TEXT = "input.txt"
Found = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help=f"has {TEXT}, tiny Shakespeare")
    default = "hallmark-small,nanogpt-small,hallmark-large"
    parser.add_argument("--arms", default=default, help=f"of {', '.join(ARMS)} (default: %(default)s)")
    parser.add_argument("--seeds", default="1", help="train each arm with each of them (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="of every arm, for a first look (default: each arm's own)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Train every arm with every seed, one after another.

    Returns:
        "machine", "seeds", "arms": {ARM: {"target", "parameters", "steps", "tokens", "compiled", "losses" and "seconds"
        of each seed, "loss" (the mean), "deviation" (None for one seed), "median_seconds", "reached": whether the mean
        is at most the target, "speedup": nanoGPT's median seconds of that size over this arm's, or None}}.

    Raises:
        HallmarkError: an unknown arm, no text, or seeds that are no numbers.
    """
    from benchmarks.arms import shakespeare

    arms = choose(options.arms, ARMS, "--arms")
    text = options.data / TEXT
    if not text.is_file():
        raise HallmarkError("there is no such file", where=str(text), fix="give --data a folder with tiny Shakespeare")
    try:
        seeds = [int(seed) for seed in options.seeds.split(",")]
    except ValueError:
        raise HallmarkError(f"{options.seeds!r}: seeds are numbers with commas", where="--seeds") from None
    machine = describe_machine()
    works = {"hallmark": shakespeare.hallmark, "nanogpt": shakespeare.nanogpt}
    found: dict[str, list[Found]] = {}
    for arm in arms:
        maker, _, size = arm.partition("-")
        found[arm] = [in_own_process(works[maker], text, size, seed, options.steps) for seed in seeds]
    described = {arm: _describe(arm, found) for arm in arms}
    return {"machine": machine, "seeds": seeds, "arms": described}


def in_own_process(work: Callable[..., Found], *arguments: Any) -> Found:
    """What `work` returns, from a fresh process without compiled code, which ends with this one."""
    context = get_context("spawn")
    with cold_compilations(), ProcessPoolExecutor(1, context, initializer=_begin, initargs=(os.getpid(),)) as pool:
        return pool.submit(work, *arguments).result()


def _begin(parent: int) -> None:
    """End with the process that asked, and print on stderr: stdout is the result's."""
    die_with_parent(parent)
    sys.stdout = sys.stderr


def _describe(arm: str, found: dict[str, list[Found]]) -> Found:
    runs, size = found[arm], arm.partition("-")[2]
    losses, seconds = [one["loss"] for one in runs], _median_seconds(runs)
    peer, target = PEERS[size], TARGETS[size]
    return {
        "target": target,
        **{name: runs[0][name] for name in ("parameters", "steps", "tokens", "compiled")},
        "losses": losses,
        "seconds": [one["seconds"] for one in runs],
        "loss": statistics.mean(losses),
        "deviation": statistics.stdev(losses) if len(losses) > 1 else None,
        "median_seconds": seconds,
        "reached": statistics.mean(losses) <= target,
        "speedup": _median_seconds(found[peer]) / seconds if peer in found and peer != arm else None,
    }


def _median_seconds(runs: list[Found]) -> float:
    return statistics.median(one["seconds"] for one in runs)


def format_result(result: dict[str, Any]) -> str:
    """The result as one table."""
    seeds = result["seeds"]
    title = f"tiny Shakespeare by the character, {result['machine']['cores']} cores, {len(seeds)} seeds; loss in nats"
    rows = [
        (
            arm,
            f"{found['parameters'] / 1e6:.2f}M",
            f"{found['steps']:,}",
            f"{found['tokens'] / 1e6:.2f}M",
            "compiled" if found["compiled"] else "eager",
            f"{found['loss']:.4f}" + (f" +- {found['deviation']:.4f}" if found["deviation"] is not None else ""),
            f"{found['target']:.4f} {'reached' if found['reached'] else 'missed'}",
            f"{found['median_seconds']:.1f}",
            f"{found['speedup']:.1f} x" if found["speedup"] else "",
        )
        for arm, found in result["arms"].items()
    ]
    header = ("arm", "parameters", "steps", "tokens", "code", "loss", "nanoGPT's", "seconds", "than nanoGPT")
    return f"{title}\n\n{format_table(header, rows)}"
