"""Tokens per second of pretraining, beside nanoGPT's loop, Hugging Face's `Trainer` and the processor's limit.

Random tokens, whole optimizer steps with clipping. Each arm trains in a process of its own, and they take turns:

    hallmark-muon, hallmark-adamw   our parts and our loop, compiled; presets qwen3, bert and t5
    nanogpt                         its loop at its best setting: bfloat16, compiled, fused AdamW (decoder only)
    trainer                         `Trainer` as it comes, in bfloat16: GPT-2, BERT and T5

MFU is the FLOPs per token of the arm's own network (6 N + attention) x its tokens per second / the rate of this
machine's matrix products, measured in every round. A token is one of the source; an encoder-decoder's targets come on
top. Compiling starts with a cold cache: how much longer than another the first round took is printed. Peak memory is
that of the arm's process, or on the GPU.
"""

import argparse
import statistics
from typing import Any, NamedTuple

from benchmarks.choices import choose, leave_out_trainer
from benchmarks.machine import cold_compilations, describe_machine
from benchmarks.tables import format_table
from benchmarks.turns import Arm, Round, Rounds, median_ratio, take_turns
from pipeline.common.errors import HallmarkError


class Size(NamedTuple):
    """Blocks (of each stack), width, and whether the head is the token embedding."""

    depth: int
    width: int
    tied: bool


SIZES = {
    "toy": Size(1, 64, True),
    "5M": Size(4, 256, False),
    "12M": Size(6, 384, True),
    "124M": Size(12, 768, True),  # for a GPU, with --context 1024 --batch 32 --vocab-size 50304
}
PRESETS: dict[str, dict[str, Any]] = {  # family -> the network as ours and as a peer has it; BERT and T5 are tied
    "decoder": {"preset": "qwen3", "published_preset": "gpt2"},
    "encoder": {"preset": "bert", "published_preset": "bert", "tied": True},
    "encoder-decoder": {"preset": "t5", "published_preset": "t5", "tied": True},
}
ARMS = ("hallmark-muon", "hallmark-adamw", "nanogpt", "trainer")
PEERS = ("nanogpt", "trainer")
MATMUL = "matmul"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sizes", default="5M,12M", help=f"of {', '.join(SIZES)}, with commas (default: %(default)s)")
    parser.add_argument("--families", default="decoder", help=f"of {', '.join(PRESETS)}, or all (default: %(default)s)")
    parser.add_argument("--arms", default="all", help=f"of {', '.join(ARMS)} (default: %(default)s)")
    parser.add_argument("--context", type=int, default=256, help="tokens of a row (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=16, help="rows of a step (default: %(default)s)")
    parser.add_argument("--vocab-size", type=int, default=4096, help="(default: %(default)s)")
    parser.add_argument("--eager", action="store_true", help="compile nothing: for a first look")
    parser.add_argument("--steps", type=int, default=10, help="of a round (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="measured rounds of each (default: %(default)s)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the chosen arms at every family and size.

    Returns:
        "machine", "context", "batch", "vocab_size", "steps", "repeats", "left_out" {ARM: why}; "comparisons": a list of
        {"family", "size", "matmul_flops_per_second", "arms": {ARM: {"parameters", "flops_per_token", "threads",
        "precision", "compiled", "tokens_per_second", "mfu", "step_seconds" of each round, "compile_seconds",
        "peak_memory_bytes", "ratio" {PEER: this arm's speed over the peer's}}}}. All are medians over the rounds.

    Raises:
        HallmarkError: an unknown name, or an arm failed.
    """
    sizes = choose(options.sizes, tuple(SIZES), "--sizes")
    families = choose(options.families, tuple(PRESETS), "--families")
    arms, left_out = leave_out_trainer(choose(options.arms, ARMS, "--arms"))
    if not set(arms) - {"nanogpt"} and families != ["decoder"]:
        raise HallmarkError("nanogpt is a decoder", where="--families", fix="name another arm, too")
    machine = describe_machine()
    with cold_compilations():
        comparisons = [_compare(family, size, arms, options) for family in families for size in sizes]
    kept = ("context", "batch", "vocab_size", "steps", "repeats")
    return {
        "machine": machine,
        **{name: getattr(options, name) for name in kept},
        "left_out": left_out,
        "comparisons": comparisons,
    }


def _compare(family: str, size: str, arms: list[str], options: argparse.Namespace) -> dict[str, Any]:
    from benchmarks.arms import pretraining
    from benchmarks.arms.machine import measure_matmul

    works = {"nanogpt": pretraining.nanogpt, "trainer": pretraining.trainer}
    names = ("context", "batch", "vocab_size", "steps", "eager")
    settings = {name: getattr(options, name) for name in names} | SIZES[size]._asdict() | PRESETS[family]
    chosen = {
        arm: Arm(works.get(arm, pretraining.hallmark), settings | {"arm": arm})
        for arm in arms
        if arm != "nanogpt" or family == "decoder"
    }
    rounds = take_turns(chosen | {MATMUL: Arm(measure_matmul, {})}, options.repeats)
    matmul = rounds.pop(MATMUL)
    return {
        "family": family,
        "size": size,
        "matmul_flops_per_second": matmul.median(lambda found: found["rate"]),
        "arms": {arm: _describe(arm, rounds, matmul) for arm in rounds},
    }


def _describe(arm: str, rounds: dict[str, Rounds], matmul: Rounds) -> dict[str, Any]:
    found = rounds[arm]
    facts = found.start
    both = zip(found.measured, matmul.measured, strict=True)
    return {
        **{name: facts[name] for name in ("parameters", "flops_per_token", "threads", "precision", "compiled")},
        "tokens_per_second": found.median(_speed),
        "mfu": statistics.median(facts["flops_per_token"] * _speed(one) / limit["rate"] for one, limit in both),
        "step_seconds": [one["seconds"] / one["steps"] for one in found.measured],
        "compile_seconds": found.compile_seconds(),
        "peak_memory_bytes": found.measured[-1]["peak_memory_bytes"],
        "ratio": {peer: median_ratio(found, rounds[peer], _speed) for peer in PEERS if peer in rounds and peer != arm},
    }


def _speed(found: Round) -> float:
    """Tokens per second."""
    return found["steps"] * found["step_tokens"] / found["seconds"]


def format_result(result: dict[str, Any]) -> str:
    """The result as one table for each family and size."""
    step_tokens = result["batch"] * result["context"]
    parts = [
        f"{result['batch']} rows of {result['context']} tokens ({step_tokens:,} a step), vocabulary "
        f"{result['vocab_size']:,}, {result['machine']['cores']} cores, medians of {result['repeats']} rounds of "
        f"{result['steps']} steps"
    ]
    parts += [f"left out: {arm}: {why}" for arm, why in result["left_out"].items()]
    header = (
        "arm",
        "parameters",
        "threads",
        "precision",
        "tokens/s",
        "MFU",
        "/ nanogpt",
        "/ trainer",
        "compiling, s",
        "peak, MB",
    )
    for found in result["comparisons"]:
        rows = [
            (
                arm,
                f"{measured['parameters'] / 1e6:.1f}M",
                str(measured["threads"]),
                measured["precision"],
                f"{measured['tokens_per_second']:,.0f}",
                f"{measured['mfu']:.1%}",
                *(f"{measured['ratio'][peer]:.2f}" if peer in measured["ratio"] else "" for peer in PEERS),
                f"{measured['compile_seconds']:.0f}" if measured["compiled"] else "eager",
                f"{measured['peak_memory_bytes'] / 1e6:,.0f}",
            )
            for arm, measured in found["arms"].items()
        ]
        rate = f"matrix products {found['matmul_flops_per_second'] / 1e9:,.0f} GFLOP/s"
        parts.append(f"{found['family']}, {found['size']}; {rate}\n\n{format_table(header, rows)}")
    return "\n\n".join(parts)
