"""Tokens per second of greedy generation, beside `transformers.generate` on the same weights.

A Llama of random weights continues random prompts, in float32 and in bfloat16, in four ways that take turns:

    transformers  `generate` with its dynamic cache, as it comes
    hallmark      `Generator`, compiled; what compiling took with a cold cache is printed apart

In float32 both have to write the same tokens. The limit of the memory is the tokens per second that reading each
weight once per step would allow: batch x bandwidth / bytes of weights, where the bandwidth is measured by summing
256 MB. Weights that fit the processor's cache can beat it.
"""

import argparse
import statistics
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from benchmarks.machine import cold_compilations, describe_machine, seconds_of
from benchmarks.tables import format_table
from pipeline.common.errors import HallmarkError
from pipeline.common.processes import peak_memory_bytes

PRECISIONS = ("float32", "bfloat16")
BANDWIDTH_BYTES = 256_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batches", default="1,8", help="prompts at once, with commas (default: %(default)s)")
    parser.add_argument("--prompt-tokens", type=int, default=32, help="(default: %(default)s)")
    parser.add_argument("--new-tokens", type=int, default=256, help="(default: %(default)s)")
    parser.add_argument("--layers", type=int, default=6, help="(default: %(default)s)")
    parser.add_argument("--width", type=int, default=384, help="a multiple of 64 (default: %(default)s)")
    parser.add_argument("--vocab-size", type=int, default=4096, help="(default: %(default)s)")
    parser.add_argument("--context", type=int, default=512, help="(default: %(default)s)")
    parser.add_argument("--eager", action="store_true", help="compile nothing: for a first look")
    parser.add_argument("--repeats", type=int, default=5, help="measured runs of each (default: %(default)s)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure all four ways at every batch size.

    Returns:
        "machine", "threads", "parameters", "weight_bytes" {PRECISION: bytes}, "bandwidth_bytes_per_second", "repeats",
        "peak_memory_bytes" of the process; "batches": {BATCH: {"ways": {"PEER PRECISION": {"seconds", "median",
        "tokens_per_second", "share_of_memory_limit"}}, "compile_seconds" {PRECISION: seconds}, "same_tokens" in
        float32, "ratio": our better precision to its better one}}.

    Raises:
        HallmarkError: sizes that cannot be, or there is no `transformers`.
    """
    if find_spec("transformers") is None:
        raise HallmarkError("transformers is not installed", fix="pip install -e .[dev]")
    if options.width % 64 or options.prompt_tokens + options.new_tokens > options.context:
        raise HallmarkError(
            f"width {options.width} has to be a multiple of 64, and prompt and new tokens to fit the context of "
            f"{options.context}",
            where="--width, --context",
        )
    machine = describe_machine()
    with cold_compilations():
        return {"machine": machine, **_measure_all(options)}


def _measure_all(options: argparse.Namespace) -> dict[str, Any]:
    import torch

    ours = _make_model(options)
    theirs = {precision: _published(ours).to(getattr(torch, precision)) for precision in PRECISIONS}
    parameters = sum(parameter.numel() for parameter in ours.parameters())
    weight_bytes = {precision: parameters * getattr(torch, precision).itemsize for precision in PRECISIONS}
    bandwidth = _bandwidth()
    found = {
        batch: _measure(ours, theirs, int(batch), weight_bytes, bandwidth, options)
        for batch in options.batches.split(",")
    }
    return {
        "threads": torch.get_num_threads(),
        "parameters": parameters,
        "weight_bytes": weight_bytes,
        "bandwidth_bytes_per_second": bandwidth,
        "repeats": options.repeats,
        "new_tokens": options.new_tokens,
        "batches": found,
        "peak_memory_bytes": peak_memory_bytes(),
    }


def _make_model(options: argparse.Namespace) -> Any:
    import torch

    from pipeline.common.params import Model
    from pipeline.model.config import derive_config
    from pipeline.model.transformer import Transformer

    settings = Model(
        preset="llama",
        depth=options.layers,
        hidden_size=options.width,
        context_length=options.context,
        tied_embeddings=True,
    )
    torch.manual_seed(0)
    model = Transformer(derive_config(settings, options.vocab_size)[0]).eval()
    for parameter in model.parameters():  # a fresh model's blocks do nothing yet
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def _published(ours: Any) -> Any:
    """The same weights in `transformers`; it never ends a text by itself."""
    import transformers

    from pipeline.model.interchange.renaming import to_published
    from pipeline.model.interchange.settings import write_settings
    from pipeline.model.weights import named_weights

    transformers.logging.set_verbosity_error()
    config = transformers.LlamaConfig(**write_settings("llama", ours.config, pad_id=0))
    model = transformers.LlamaForCausalLM(config).eval()
    missing = model.load_state_dict(to_published("llama", ours.config, named_weights(ours), 0), strict=False)
    assert missing.missing_keys == ["lm_head.weight"], missing  # it is the embedding
    assert not missing.unexpected_keys, missing
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = None, 0
    return model


def _measure(
    ours: Any,
    theirs: dict[str, Any],
    batch: int,
    weight_bytes: dict[str, int],
    bandwidth: float,
    options: argparse.Namespace,
) -> dict[str, Any]:
    import torch

    generator = torch.Generator().manual_seed(1)
    ids_BT = torch.randint(options.vocab_size, (batch, options.prompt_tokens), generator=generator)
    ways: dict[str, Callable[[], list[list[int]]]] = {}
    compile_seconds: dict[str, float] = {}
    for precision in PRECISIONS:
        ways[f"transformers {precision}"] = _their_way(theirs[precision], ids_BT, options.new_tokens)
        way, compile_seconds[precision] = _our_way(ours, precision, ids_BT, options)
        ways[f"hallmark {precision}"] = way
    same = ways["transformers float32"]() == ways["hallmark float32"]()  # and all have run once
    ways["transformers bfloat16"]()
    rounds = [{name: seconds_of(way) for name, way in ways.items()} for _ in range(options.repeats)]
    measured: dict[str, dict[str, Any]] = {}
    for name in ways:
        seconds = [found[name] for found in rounds]
        speed = batch * options.new_tokens / statistics.median(seconds)
        limit = batch * bandwidth / weight_bytes[name.split()[1]]
        measured[name] = {
            "seconds": seconds,
            "median": statistics.median(seconds),
            "tokens_per_second": speed,
            "share_of_memory_limit": speed / limit,
        }
    best = {
        peer: max(measured[f"{peer} {precision}"]["tokens_per_second"] for precision in PRECISIONS)
        for peer in ("transformers", "hallmark")
    }
    return {
        "ways": measured,
        "compile_seconds": compile_seconds,
        "same_tokens": same,
        "ratio": best["hallmark"] / best["transformers"],
    }


def _their_way(model: Any, ids_BT: Any, new_tokens: int) -> Callable[[], list[list[int]]]:
    import torch

    mask_BT = torch.ones_like(ids_BT)

    def generate() -> list[list[int]]:
        with torch.inference_mode():
            found = model.generate(ids_BT, attention_mask=mask_BT, max_new_tokens=new_tokens, do_sample=False)
        return found[:, ids_BT.size(1) :].tolist()

    return generate


def _our_way(
    model: Any, precision: str, ids_BT: Any, options: argparse.Namespace
) -> tuple[Callable[[], list[list[int]]], float]:
    """How we generate, and how long the first time took, which compiles."""
    from pipeline.model.generation.generator import Generator
    from pipeline.model.generation.settings import GenerationSettings

    generator = Generator(model, precision=precision, compile="never" if options.eager else "always")
    settings = GenerationSettings(max_new_tokens=options.new_tokens)

    def generate() -> list[list[int]]:
        return generator.generate(ids_BT.tolist(), settings)

    return generate, seconds_of(generate)


def _bandwidth() -> float:
    """Bytes per second that all threads together read from memory: the best of five sums."""
    import torch

    values = torch.ones(BANDWIDTH_BYTES // 4)
    return BANDWIDTH_BYTES / min(seconds_of(values.sum) for _ in range(5))


def format_result(result: dict[str, Any]) -> str:
    """The result as one table per batch size."""
    header = ("way", "tokens/s", "ms/step", "of memory limit")
    parts = [
        f"{result['parameters'] / 1e6:.1f}M parameters, {result['new_tokens']} new tokens, "
        f"{result['threads']} threads, medians of {result['repeats']}\n"
        f"memory limit = batch x {result['bandwidth_bytes_per_second'] / 1e9:.1f} GB/s read / bytes of weights; "
        f"peak memory of all together {result['peak_memory_bytes'] / 1e6:,.0f} MB"
    ]
    for batch, found in result["batches"].items():
        rows = [
            (
                name,
                f"{way['tokens_per_second']:,.0f}",
                f"{1000 * way['median'] / result['new_tokens']:.2f}",
                f"{way['share_of_memory_limit']:.0%}",
            )
            for name, way in found["ways"].items()
        ]
        compiling = ", ".join(f"{precision} {seconds:.0f} s" for precision, seconds in found["compile_seconds"].items())
        same = "the same tokens" if found["same_tokens"] else "OTHER TOKENS"
        parts.append(
            f"batch {batch}: {found['ratio']:.2f} times as fast, the better precision of each; in float32 {same}\n"
            f"first call with a cold cache: {compiling}\n\n{format_table(header, rows)}"
        )
    return "\n\n".join(parts)
