"""Prompts scored per second, beside a plain loop over texts and label words.

A Llama of random weights scores the label words of random texts, with and without demonstrations before them, in two
ways that take turns:

    loop       one pass over prompt and label word for every text and every word, one at a time
    hallmark   texts in batches, what they begin with read once, and each prompt once for all words

Both have to find the same log-likelihoods.
"""

import argparse
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.machine import describe_machine, seconds_of
from benchmarks.tables import format_table
from pipeline.common.errors import HallmarkError

WORD_TOKENS = 3  # label words have 1, 2 and 3 tokens in turn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shots", default="0,4", help="demonstrations, with commas (default: %(default)s)")
    parser.add_argument("--texts", type=int, default=64, help="(default: %(default)s)")
    parser.add_argument("--text-tokens", type=int, default=40, help="of a text at most (default: %(default)s)")
    parser.add_argument("--labels", type=int, default=10, help="(default: %(default)s)")
    parser.add_argument("--layers", type=int, default=4, help="(default: %(default)s)")
    parser.add_argument("--width", type=int, default=256, help="a multiple of 64 (default: %(default)s)")
    parser.add_argument("--vocab-size", type=int, default=4096, help="(default: %(default)s)")
    parser.add_argument("--context", type=int, default=256, help="(default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="measured runs of each (default: %(default)s)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure both ways with every number of demonstrations.

    Returns:
        "machine", "threads", "parameters", "texts", "labels", "repeats"; "shots": {SHOTS: {"ways": {WAY: {"seconds",
        "median", "texts_per_second"}}, "prompt_tokens" mean, "largest_difference" of a log-likelihood in nats,
        "ratio"}}.

    Raises:
        HallmarkError: sizes that cannot be.
    """
    shots = [int(number) for number in options.shots.split(",")]
    longest = (max(shots) + 1) * (options.text_tokens + 1) + WORD_TOKENS
    if options.width % 64 or longest > options.context:
        raise HallmarkError(
            f"width {options.width} has to be a multiple of 64, and prompts of {longest} tokens to fit the context of "
            f"{options.context}",
            where="--width, --shots, --text-tokens, --context",
        )
    import torch

    machine, model = describe_machine(), _make_model(options)
    return {
        "machine": machine,
        "threads": torch.get_num_threads(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "texts": options.texts,
        "labels": options.labels,
        "repeats": options.repeats,
        "shots": {str(number): _measure(model, number, options) for number in shots},
    }


def _make_model(options: argparse.Namespace) -> Any:
    import torch

    from pipeline.common.params import Model
    from pipeline.model.config import derive_config
    from pipeline.model.transformer import Transformer

    settings = Model(preset="llama", depth=options.layers, hidden_size=options.width, context_length=options.context)
    torch.manual_seed(0)
    model = Transformer(derive_config(settings, options.vocab_size)[0]).eval()
    for parameter in model.parameters():  # a fresh model finds all words all but equally likely
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def _measure(model: Any, shots: int, options: argparse.Namespace) -> dict[str, Any]:
    import numpy as np

    from pipeline.prompting.scoring import Scorer

    generator = np.random.default_rng(0)

    def tokens(count: int) -> list[int]:
        return generator.integers(1, options.vocab_size, count).tolist()

    answers = [tokens(1 + number % WORD_TOKENS) for number in range(options.labels)]
    begun = [0, *tokens(shots * (options.text_tokens + 1))]
    sizes = generator.integers(options.text_tokens // 2, options.text_tokens + 1, options.texts)
    prompts = [begun + tokens(size) for size in sizes]
    scorer = Scorer(model)
    ways: dict[str, Callable[[], Any]] = {
        "loop": lambda: score_one_by_one(model, prompts, answers),
        "hallmark": lambda: scorer.score(prompts, answers),
    }
    found = {name: way() for name, way in ways.items()}  # and all have run once
    rounds = [{name: seconds_of(way) for name, way in ways.items()} for _ in range(options.repeats)]
    measured: dict[str, dict[str, Any]] = {}
    for name in ways:
        seconds = [turn[name] for turn in rounds]
        median = statistics.median(seconds)
        measured[name] = {"seconds": seconds, "median": median, "texts_per_second": options.texts / median}
    return {
        "ways": measured,
        "prompt_tokens": statistics.fmean(map(len, prompts)),
        "largest_difference": float(np.abs(found["loop"] - found["hallmark"]).max()),
        "ratio": measured["hallmark"]["texts_per_second"] / measured["loop"]["texts_per_second"],
    }


def score_one_by_one(model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> Any:
    """log p(answer | prompt) of every answer behind every prompt, float32 (N, C): the plain truth of
    `pipeline.prompting.scoring`, one pass of the whole network for each of them.
    """
    import numpy as np
    import torch

    scores_NC = np.zeros((len(prompts), len(answers)), dtype=np.float32)
    with torch.inference_mode():
        for row, prompt in enumerate(prompts):
            for column, answer in enumerate(answers):
                logits_1TV = model(torch.tensor([[*prompt, *answer]]))
                nats_TV = logits_1TV[0, len(prompt) - 1 : -1].log_softmax(dim=-1)
                scores_NC[row, column] = nats_TV.gather(1, torch.tensor(answer)[:, None]).sum()
    return scores_NC


def format_result(result: dict[str, Any]) -> str:
    """The result as one table."""
    title = (
        f"{result['parameters'] / 1e6:.1f}M parameters, {result['texts']} texts, {result['labels']} label words "
        f"of 1 to {WORD_TOKENS} tokens, {result['threads']} threads, medians of {result['repeats']}"
    )
    header = ("way", "demonstrations", "tokens of a prompt", "texts/s", "times the loop")
    rows, parts = [], [title]
    for shots, found in result["shots"].items():
        for name, way in found["ways"].items():
            ratio = f"{found['ratio']:.1f}" if name == "hallmark" else ""
            rows.append((name, shots, f"{found['prompt_tokens']:.0f}", f"{way['texts_per_second']:,.1f}", ratio))
    largest = max(found["largest_difference"] for found in result["shots"].values())
    return "\n\n".join(
        [*parts, format_table(header, rows), f"largest difference of a log-likelihood: {largest:.1e} nats"]
    )
