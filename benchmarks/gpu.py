"""Tokens per second of a 124M GPT on one GPU, and its share of the rate of matrix products.

GPT-2's shape at a context of 1,024 (12 layers of width 768, vocabulary 50,304): our network in bfloat16 by autocast,
compiled, with torch's own attention (flash), fused AdamW and clipping, on random tokens. It needs torch and numpy and
nothing else.

MFU is 6 N + attention FLOPs per token x tokens per second / the rate of bfloat16 products of large matrices, measured
in every round. These hold random values: with ones, a GPU needs less power and is faster than it ever is at work.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.machine import peak_bytes, seconds_of, wait_for_device
from benchmarks.synthetic import draw_windows
from benchmarks.tables import format_table
from pipeline.common.compiler import find_compiler
from pipeline.common.errors import HallmarkError

SHARD_TOKENS = 10_000_000
PRODUCTS = 20  # timed together
RATE, BETAS, CLIP = 6e-4, (0.9, 0.95), 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a trial (default: %(default)s)")
    whole = "blocks one by one with one compilation for all, the whole network at once, or nothing"
    parser.add_argument("--compile", choices=("blocks", "whole", "never"), default="blocks", help=whole)
    parser.add_argument("--layers", type=int, default=12, help="(default: %(default)s)")
    parser.add_argument("--width", type=int, default=768, help="a multiple of 64 (default: %(default)s)")
    parser.add_argument("--context", type=int, default=1024, help="tokens of a row (default: %(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="rows of a step (default: %(default)s)")
    parser.add_argument("--vocab-size", type=int, default=50304, help="(default: %(default)s)")
    parser.add_argument("--matrix", type=int, default=8192, help="rows of the measured products (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="of a round (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="measured rounds (default: %(default)s)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Train, and measure the products, in turns.

    Returns:
        "device" (its name), "torch", "parameters", "flops_per_token", "compile", "context", "batch", "steps",
        "repeats", "tokens_per_second", "mfu", "matmul_flops_per_second", "step_seconds" of each round,
        "first_round_seconds", which compiles, and "peak_memory_bytes". All are medians over the rounds.

    Raises:
        HallmarkError: there is no such device, or nothing to compile with.
    """
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        raise HallmarkError("torch sees no CUDA device here", fix="run it on a GPU machine, or try --device cpu")
    if options.device == "cpu" and options.compile != "never" and find_compiler() is None:
        raise HallmarkError("there is no C++ compiler here", where="--compile", fix="install g++, or --compile never")
    device = torch.device(options.device)
    model = _make_model(options).to(device)
    step, matmul = _training_steps(model, options, device), _matmul_rate(options.matrix, device)

    def train() -> None:
        for _ in range(options.steps):
            next(step)
        wait_for_device()

    first = seconds_of(train)
    rounds = [(seconds_of(train), matmul()) for _ in range(options.repeats)]
    tokens, flops = options.steps * options.batch * options.context, _flops_per_token(model)
    kept = ("compile", "context", "batch", "steps", "repeats")
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "flops_per_token": flops,
        **{name: getattr(options, name) for name in kept},
        "tokens_per_second": statistics.median(tokens / seconds for seconds, _ in rounds),
        "mfu": statistics.median(flops * tokens / seconds / rate for seconds, rate in rounds),
        "matmul_flops_per_second": statistics.median(rate for _, rate in rounds),
        "step_seconds": [seconds / options.steps for seconds, _ in rounds],
        "first_round_seconds": first,
        "peak_memory_bytes": peak_bytes(),
    }


def _make_model(options: argparse.Namespace) -> Any:
    import torch

    from pipeline.model.config import HEAD_DIM, ModelConfig
    from pipeline.model.presets import PRESETS
    from pipeline.model.transformer import Transformer

    torch.manual_seed(0)
    parts = PRESETS["gpt2"] | {"biases": "none"}
    return Transformer(
        ModelConfig(
            vocab_size=options.vocab_size,
            hidden_size=options.width,
            num_layers=options.layers,
            num_heads=max(1, options.width // HEAD_DIM),
            intermediate_size=4 * options.width,
            context_length=options.context,
            dropout=0.0,
            **parts,
        )
    )


def _flops_per_token(model: Any) -> int:
    from pipeline.model.accounting import body_flops_per_token, head_flops_per_token

    return body_flops_per_token(model.config) + head_flops_per_token(model.config)


def _training_steps(model: Any, options: argparse.Namespace, device: Any) -> Iterator[None]:
    """One optimizer step with each `next`; the next batch is on its way while the device works."""
    import numpy as np
    import torch

    tokens = np.random.default_rng(0).integers(0, options.vocab_size, SHARD_TOKENS).astype(np.uint16)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=BETAS, fused=True)
    loss, autocast = _compiled_loss(model, options.compile), torch.autocast(device.type, dtype=torch.bfloat16)
    ids_BT, labels_BT = draw_windows(tokens, options.batch, options.context, device)
    while True:
        with autocast:
            nats = loss(ids_BT, labels_BT)
        ids_BT, labels_BT = draw_windows(tokens, options.batch, options.context, device)
        nats.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield


def _compiled_loss(model: Any, what: str) -> Callable[[Any, Any], Any]:
    """(ids_BT, labels_BT) to the mean loss in nats."""
    import torch
    from torch.nn.functional import cross_entropy

    def head_loss(x_BTD: Any, labels_BT: Any) -> Any:
        return cross_entropy(model.logits(x_BTD).float().flatten(0, 1), labels_BT.flatten())

    def whole_loss(ids_BT: Any, labels_BT: Any) -> Any:
        return head_loss(model.hidden_states(ids_BT), labels_BT)

    if what == "whole":
        return torch.compile(whole_loss, dynamic=False)
    if what == "blocks":
        for block in model.decoder.blocks:
            block.compile(dynamic=False)
        head_loss = torch.compile(head_loss, dynamic=False)
    return whole_loss


def _matmul_rate(size: int, device: Any) -> Callable[[], float]:
    """What measures the FLOPs per second of bfloat16 products of `size` x `size` matrices."""
    import torch

    a, b = torch.randn(2, size, size, device=device, dtype=torch.bfloat16)

    def multiply() -> None:
        for _ in range(PRODUCTS):
            a @ b
        wait_for_device()

    multiply()
    return lambda: 2 * size**3 * PRODUCTS / seconds_of(multiply)


def format_result(result: dict[str, Any]) -> str:
    """The result as one table."""
    title = (
        f"{result['device']}, torch {result['torch']}; {result['parameters'] / 1e6:.1f}M parameters, "
        f"{result['batch']} rows of {result['context']} tokens, compiled: {result['compile']}, medians of "
        f"{result['repeats']} rounds of {result['steps']} steps"
    )
    rows = [
        ("tokens/s", f"{result['tokens_per_second']:,.0f}"),
        ("training, TFLOP/s", f"{result['flops_per_token'] * result['tokens_per_second'] / 1e12:,.1f}"),
        ("matrix products, TFLOP/s", f"{result['matmul_flops_per_second'] / 1e12:,.1f}"),
        ("MFU", f"{result['mfu']:.1%}"),
        ("peak memory, MB", f"{result['peak_memory_bytes'] / 1e6:,.0f}"),
        ("first round, s", f"{result['first_round_seconds']:.1f}"),
    ]
    return f"{title}\n\n{format_table(('', 'measured'), rows)}"
