"""What the pretrained model writes when it is asked to go on."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pipeline.common.tables import stream_table
from pipeline.model.config import ModelConfig
from pipeline.model.generation import generate
from pipeline.model.transformer import Transformer
from pipeline.model.weights import load_weights, read_weights

PROMPT_TOKENS, NEW_TOKENS, PROMPTS, BEGINNING_CHARACTERS = 16, 64, 3, 400


def write_samples(model_folder: Path, documents: Path, seed: int) -> list[dict[str, Any]]:
    """Continue nothing at all, and the beginnings of a few unseen documents.

    On the CPU, in float32 and in one thread, so that the same weights always write the same text.

    Returns:
        {"prompt", "text"} each; nothing for a model that is no decoder, since it continues no text.
    """
    weights, described, tokenizer = read_weights(model_folder)
    config = ModelConfig.from_dict(described["model"])
    if config.family != "decoder":
        return []
    model = Transformer(config).eval()
    load_weights(model, weights)
    prompts = [tokenizer.encode(beginning)[:PROMPT_TOKENS] for beginning in ["", *_beginnings(documents)]]
    samples = []
    with _one_thread():
        for number, prompt in enumerate(prompts):
            ids = [tokenizer.bos_id, *prompt]
            added = generate(model, ids, max_new_tokens=NEW_TOKENS, seed=seed + number)
            samples.append({"prompt": tokenizer.decode(prompt), "text": tokenizer.decode(added)})
    return samples


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
