"""Time and memory of every stage, training speed, the cost of DVC + Prefect + MLflow, and builds with nothing to do.

HEAD is cloned once for each of three arms, each with state of its own and a cold compile cache:

    bare   each stage's command by itself, tracking off
    dvc    `dvc repro`, tracking on
    flow   the Prefect flow with a server running, tracking on

Overhead is given twice. `difference` is an arm's seconds less those of `bare`: simple, but with the noise of two
trainings in it. `around_stages` is what an arm spent outside its stages, less what `bare` spent there to start them;
what tracking costs inside a stage is only in `difference`. The flow runs independent stages side by side, so both can
be below zero for it.
"""

import argparse
import shlex
import statistics
import subprocess
import sys
from typing import Any

from benchmarks.checkout import REPOSITORY, Checkout, temporary_checkout
from benchmarks.choices import choose
from benchmarks.machine import describe_machine
from benchmarks.servers import prefect_server
from benchmarks.tables import format_table

ARMS = ("bare", "dvc", "flow")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--arms", default=",".join(ARMS), help="which arms to run, with commas (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="builds with nothing to do (default: %(default)s)")
    parser.add_argument("--toy", action="store_true", help="a toy size, to try the benchmark itself")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run the chosen arms.

    Returns:
        "commit", "machine", "size"; "build": {ARM: seconds}; "stages": {STAGE: {"bare_seconds", "seconds",
        "peak_memory_bytes"}}; "tokens_per_second": {STAGE: float}; "no_op": {ARM: {"median", "seconds"}};
        "overhead": {ARM: {"difference", "around_stages", as seconds and as shares of the bare build}}.

    Raises:
        HallmarkError: an unknown arm, or a command failed.
    """
    arms = choose(options.arms, ARMS, "--arms", "arm ")
    machine = describe_machine()
    measured = {arm: _measure(arm, options) for arm in arms}
    return {
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes_left_out": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "machine": machine,
        "size": "toy" if options.toy else "default",
        "build": {arm: found["seconds"] for arm, found in measured.items()},
        "stages": _merge_stages(measured),
        "tokens_per_second": _speeds(measured),
        "no_op": {arm: _summarize(found["no_op"]) for arm, found in measured.items() if found["no_op"]},
        "overhead": {
            arm: _overhead(measured[arm], measured["bare"]) for arm in arms if arm != "bare" and "bare" in arms
        },
    }


def _measure(arm: str, options: argparse.Namespace) -> dict[str, Any]:
    """One arm: "seconds" of the build, "stages" in their order with their own timings, "no_op" seconds; for bare also
    "commands", the seconds of each stage's command."""
    with temporary_checkout(arm) as checkout:
        if options.toy:
            _make_toy(checkout)
        print(f"benchmarks: {arm} builds in {checkout.root}", file=sys.stderr)
        found = {"bare": _bare, "dvc": _dvc, "flow": _flow}[arm](checkout, options.repeats)
        timings = checkout.timings()
        return {**found, "stages": {name: timings[name] for name in checkout.stages()}}


def _make_toy(checkout: Checkout) -> None:
    """The text and settings of the tests' toy project: a build in well under a minute."""
    from pipeline.common.params import Params, render
    from tests.toy import TOY_PARAMS, write_toy_text

    write_toy_text(checkout.root / "data" / "own")
    (checkout.root / "params.yaml").write_text(render(Params.model_validate(TOY_PARAMS)), encoding="utf-8")


def _bare(checkout: Checkout, _repeats: int) -> dict[str, Any]:
    commands = {
        name: checkout.time(*shlex.split(command), HALLMARK_TRACKING="off")
        for name, command in checkout.stages().items()
    }
    return {"seconds": sum(commands.values()), "commands": commands, "no_op": []}


def _dvc(checkout: Checkout, repeats: int) -> dict[str, Any]:
    command = ("dvc", "--wait-for-lock", "repro")
    seconds = checkout.time(*command)
    no_op = [checkout.time(*command) for _ in range(repeats)]
    return {"seconds": seconds, "no_op": no_op}


def _flow(checkout: Checkout, repeats: int) -> dict[str, Any]:
    command = ("python", "-m", "flows.rebuild")
    with prefect_server(checkout) as address:
        seconds = checkout.time(*command, PREFECT_API_URL=address)
        no_op = [checkout.time(*command, PREFECT_API_URL=address) for _ in range(repeats)]
    return {"seconds": seconds, "no_op": no_op}


def _merge_stages(measured: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    timings = _timings(measured)
    commands = measured.get("bare", {}).get("commands", {})
    return {
        name: {
            **({"bare_seconds": commands[name]} if commands else {}),
            "seconds": timing["seconds"],
            "peak_memory_bytes": timing["peak_memory_bytes"],
        }
        for name, timing in timings.items()
    }


def _speeds(measured: dict[str, dict[str, Any]]) -> dict[str, float]:
    timings = _timings(measured).items()
    return {name: timing["tokens_per_second"] for name, timing in timings if "tokens_per_second" in timing}


def _timings(measured: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What the stages say of themselves in the arm that users run most."""
    return next(measured[arm]["stages"] for arm in ("dvc", "flow", "bare") if arm in measured)


def _summarize(seconds: list[float]) -> dict[str, Any]:
    return {"median": statistics.median(seconds), "seconds": seconds}


def _overhead(arm: dict[str, Any], bare: dict[str, Any]) -> dict[str, float]:
    difference = arm["seconds"] - bare["seconds"]
    around_stages = _seconds_outside(arm) - _seconds_outside(bare)
    return {
        "difference_seconds": difference,
        "difference_share": difference / bare["seconds"],
        "around_stages_seconds": around_stages,
        "around_stages_share": around_stages / bare["seconds"],
    }


def _seconds_outside(arm: dict[str, Any]) -> float:
    return arm["seconds"] - sum(timing["seconds"] for timing in arm["stages"].values())


def _git(*arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=REPOSITORY, check=True, capture_output=True, text=True
    ).stdout.strip()


def format_result(result: dict[str, Any]) -> str:
    """The result as tables."""
    stages = [
        (
            name,
            *([f"{found['bare_seconds']:.1f}"] if "bare_seconds" in found else []),
            f"{found['seconds']:.1f}",
            f"{found['peak_memory_bytes'] / 1e6:.0f}",
        )
        for name, found in result["stages"].items()
    ]
    has_bare = bool(stages) and len(stages[0]) == 4
    header = ("stage", *(["bare command, s"] if has_bare else []), "inside the stage, s", "peak memory, MB")
    figures = [(f"whole build, {arm}", f"{seconds:.1f} s") for arm, seconds in result["build"].items()]
    for arm, found in result["overhead"].items():
        for way, label in (("difference", "less the bare build"), ("around_stages", "around the stages")):
            seconds, share = found[f"{way}_seconds"], found[f"{way}_share"]
            figures.append((f"overhead of {arm}, {label}", f"{seconds:.1f} s = {share:.1%} of bare"))
    figures += [
        (f"nothing to do, {arm}", f"{found['median']:.2f} s, median of {len(found['seconds'])}")
        for arm, found in result["no_op"].items()
    ]
    figures += [(f"{stage}", f"{speed:,.0f} tokens/s") for stage, speed in result["tokens_per_second"].items()]
    title = f"commit {result['commit'][:12]}, {result['size']} size, {result['machine']['cores']} cores"
    return "\n\n".join([title, format_table(header, stages), format_table(("figure", "value"), figures)])
