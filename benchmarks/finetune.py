"""Examples per second of fine-tuning a classifier on texts of mixed length, beside Hugging Face's `Trainer`.

Random texts of 22 to 256 tokens, every length as likely (139 on average), one network for all. Each arm trains in a
process of its own, in float32 and in bfloat16, and they take turns, an epoch at a time:

    hallmark-eager, hallmark-compiled   our task and our loop: texts of similar length, padded to eights
    trainer                             `Trainer` as it comes: each batch padded to its longest text
    trainer-grouped                     the same with its own grouping by length

The first epoch, which compiles, does not count; how much longer it took is printed. Peak memory is that of the arm's
process, or on the GPU.
"""

import argparse
from typing import Any

from benchmarks.choices import choose, leave_out_trainer
from benchmarks.machine import cold_compilations, describe_machine
from benchmarks.tables import format_table
from benchmarks.turns import Arm, Round, Rounds, median_ratio, take_turns

ARMS = ("hallmark-eager", "hallmark-compiled", "trainer", "trainer-grouped")
PEERS = ("trainer", "trainer-grouped")
PRECISIONS = ("float32", "bfloat16")
PRESETS = ("bert", "qwen3", "llama", "gpt2")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--arms", default="all", help=f"of {', '.join(ARMS)}, with commas (default: %(default)s)")
    parser.add_argument("--precisions", default="all", help=f"of {', '.join(PRECISIONS)} (default: %(default)s)")
    parser.add_argument("--preset", choices=PRESETS, default="bert", help="of both networks (default: %(default)s)")
    parser.add_argument("--texts", type=int, default=1000, help="of an epoch (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=256, help="of the longest text (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="texts of a step (default: %(default)s)")
    parser.add_argument("--layers", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument("--width", type=int, default=256, help="(default: %(default)s)")
    parser.add_argument("--vocab-size", type=int, default=4096, help="(default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="measured epochs of each (default: %(default)s)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the chosen arms in the chosen precisions.

    Returns:
        "machine", "preset", "texts", "max_tokens", "batch", "layers", "width", "vocab_size", "repeats", "left_out"
        {ARM: why}; "arms": {"ARM PRECISION": {"parameters", "threads", "examples_per_second", "epoch_seconds" of each
        round, "compile_seconds", "peak_memory_bytes", "ratio" {PEER: this arm's speed over the peer's faster
        precision}}}. All are medians over the rounds.

    Raises:
        HallmarkError: an unknown name, or an arm failed.
    """
    from benchmarks.arms import finetuning

    arms, left_out = leave_out_trainer(choose(options.arms, ARMS, "--arms"))
    precisions = choose(options.precisions, PRECISIONS, "--precisions")
    kept = ("preset", "texts", "max_tokens", "batch", "layers", "width", "vocab_size", "repeats")
    asked = {name: getattr(options, name) for name in kept}
    machine = describe_machine()
    works = {}
    for precision in precisions:
        for arm in arms:
            work = finetuning.trainer if arm in PEERS else finetuning.hallmark
            compiled = arm == "hallmark-compiled"
            settings = {"arm": arm, "precision": precision, "compiled": compiled, "depth": options.layers}
            works[f"{arm} {precision}"] = Arm(work, asked | settings)
    with cold_compilations():
        rounds = take_turns(works, options.repeats)
    best = {peer: _fastest(peer, rounds) for peer in PEERS if peer in arms}
    described = {name: _describe(found, rounds, best) for name, found in rounds.items()}
    return {"machine": machine, **asked, "left_out": left_out, "arms": described}


def _fastest(peer: str, rounds: dict[str, Rounds]) -> str:
    """The name of a peer's arm in its better precision."""
    return max((name for name in rounds if name.split()[0] == peer), key=lambda name: rounds[name].median(_speed))


def _describe(found: Rounds, rounds: dict[str, Rounds], best: dict[str, str]) -> dict[str, Any]:
    return {
        "parameters": found.start["parameters"],
        "threads": found.start["threads"],
        "examples_per_second": found.median(_speed),
        "epoch_seconds": [one["seconds"] for one in found.measured],
        "compile_seconds": found.compile_seconds(),
        "peak_memory_bytes": found.measured[-1]["peak_memory_bytes"],
        "ratio": {peer: median_ratio(found, rounds[name], _speed) for peer, name in best.items()},
    }


def _speed(found: Round) -> float:
    """Texts per second of an epoch."""
    return found["texts"] / found["seconds"]


def format_result(result: dict[str, Any]) -> str:
    """The result as one table."""
    title = (
        f"{result['layers']} layers of width {result['width']} ({result['preset']}), {result['texts']:,} texts of up "
        f"to {result['max_tokens']} tokens, {result['batch']} a step, {result['machine']['cores']} cores, medians of "
        f"{result['repeats']} epochs"
    )
    parts = [title, *(f"left out: {arm}: {why}" for arm, why in result["left_out"].items())]
    header = (
        "arm",
        "parameters",
        "threads",
        "examples/s",
        *(f"/ {peer}'s best" for peer in PEERS),
        "compiling, s",
        "peak, MB",
    )
    rows = [
        (
            name,
            f"{arm['parameters'] / 1e6:.1f}M",
            str(arm["threads"]),
            f"{arm['examples_per_second']:.1f}",
            *(f"{arm['ratio'][peer]:.2f}" if peer in arm["ratio"] else "" for peer in PEERS),
            f"{arm['compile_seconds']:.0f}" if name.startswith("hallmark-compiled") else "eager",
            f"{arm['peak_memory_bytes'] / 1e6:,.0f}",
        )
        for name, arm in result["arms"].items()
    ]
    return "\n\n".join([*parts, format_table(header, rows)])
