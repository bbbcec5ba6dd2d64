"""What the pretrained model writes when it is asked to go on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pipeline.common.tables import stream_table
from pipeline.model.generation.settings import GenerationSettings
from pipeline.model.generation.texts import TextGenerator
from pipeline.model.weights import read_config

PROMPT_TOKENS, NEW_TOKENS, PROMPTS, BEGINNING_CHARACTERS = 16, 64, 3, 400
TEMPERATURE, TOP_K = 0.8, 50


def write_samples(model_folder: Path, documents: Path, seed: int) -> list[dict[str, Any]]:
    """Continue nothing at all, and the beginnings of a few unseen documents.

    On the CPU, in float32 and in one thread, so that the same weights always write the same text.

    Returns:
        {"prompt", "text"} each; nothing for a model that is no decoder, since it continues no text.
    """
    if read_config(model_folder)["model"]["family"] != "decoder":
        return []
    generator = TextGenerator.load(model_folder, compile="never")
    tokenizer, room = generator.tokenizer, generator.context_length - 1  # each begins with bos
    prompts = [
        tokenizer.decode(tokenizer.encode(beginning)[: min(PROMPT_TOKENS, room // 2)])
        for beginning in ["", *_beginnings(documents)]
    ]
    settings = GenerationSettings(
        max_new_tokens=min(NEW_TOKENS, room - max(len(tokenizer.encode(prompt)) for prompt in prompts)),
        temperature=TEMPERATURE,
        top_k=TOP_K,
        seed=seed,
    )
    with _one_thread():
        found = generator.generate(prompts, settings)
    return [{"prompt": continuation.prompt, "text": continuation.text} for continuation in found]


def _beginnings(documents: Path) -> list[str]:
    """The first lines of a few unseen documents, evenly spread over all of them."""
    found: list[str] = []
    for rows in stream_table(documents, columns=["text", "split"]):
        unseen = rows.loc[rows["split"] == "validation", "text"]
        found += unseen.str.slice(0, BEGINNING_CHARACTERS).tolist()
    count = min(PROMPTS, len(found))
    return [found[number * len(found) // count] for number in range(count)]


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
