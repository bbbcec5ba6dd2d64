"""Classifying texts of mixed length: ours in length buckets, and `Trainer`, padded.

All take the same settings: "arm", "preset", "depth", "width", "vocab_size", "max_tokens", "texts", "batch" (texts),
"precision", "compiled". A round is an epoch. With each they tell "parameters", "threads" and "texts".
"""

from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from benchmarks.arms.endless import ENDLESS, train_endlessly
from benchmarks.arms.machine import best_compute, best_machine
from benchmarks.synthetic import make_texts, make_tokenizer
from benchmarks.turns import Clock
from pipeline.common.params import Finetune, Model, Task
from pipeline.model.accounting import body_flops_per_token
from pipeline.model.config import derive_config
from pipeline.tasks.classification import Classification
from pipeline.tasks.encoding import encode_rows
from pipeline.tasks.finetuning import training_batches
from pipeline.training.optimizers import finetuning_optimizers, trapezoid
from pipeline.training.runtime import choose_device, choose_runtime

CLASSES = 10
VALIDATION_TEXTS = CLASSES
Settings = dict[str, Any]


def hallmark(clock: Clock, settings: Settings) -> None:
    """The real task and the real loop, without what `Trainer` has none of: classifiers of n-grams, dropout of tokens.

    The token that stands for a text is that of the published classifiers: an encoder's first, a decoder's last.
    """
    config, tokenizer = _config(settings), make_tokenizer(settings["vocab_size"])
    pooling = "first" if config.family == "encoder" else "last"
    finetune = Finetune(
        batch_size=settings["batch"], max_tokens=settings["max_tokens"], pooling=pooling, ngrams=False, token_dropout=0
    )
    task = Classification(
        _rows(settings, tokenizer), "random texts", tokenizer, Task(labels_per_class=None), finetune,
        config, 0,
    )  # fmt: skip
    compute = best_compute(not settings["compiled"], settings["precision"])
    batches = training_batches(task, choose_device(compute)[0])
    runtime = choose_runtime(compute, 0, shapes=len(batches.buckets))
    torch.manual_seed(0)
    model = task.model().to(runtime.device)
    clock.steps = batches.steps_per_epoch
    clock.facts = _facts(model, settings)

    train_endlessly(
        clock,
        model,
        task.loss,
        batches,
        finetuning_optimizers(model.body, model.head, finetune, trapezoid(ENDLESS, 0.001, 0.999)),
        runtime,
        name=settings["arm"],
        gradient_clip=finetune.gradient_clip,
        flops_per_token=body_flops_per_token(config),
    )


def trainer(clock: Clock, settings: Settings) -> None:
    """Eager, each batch padded to its longest text; `trainer-grouped` puts texts of similar length together."""
    from benchmarks.arms import trainer as peer

    tokenizer = make_tokenizer(settings["vocab_size"])
    rows = _rows(settings, tokenizer)
    rows = rows[rows["split"] == "train"]
    ids, _ = encode_rows(rows["text"].tolist(), tokenizer, settings["max_tokens"])
    dataset = [
        {"input_ids": tokens, "length": len(tokens), "label": int(label)}
        for tokens, label in zip(ids, rows["label"], strict=True)
    ]
    torch.manual_seed(0)
    model = peer.published_classifier(_config(settings), CLASSES, tokenizer.pad_id)
    clock.steps = -(-len(dataset) // settings["batch"])
    clock.facts = _facts(model, settings)
    machine = best_machine(best_compute(precision=settings["precision"]))
    sampling = {"train_sampling_strategy": "group_by_length"} if settings["arm"].endswith("grouped") else {}
    peer.train(clock, model, dataset, peer.padded(tokenizer.pad_id), settings["batch"], machine, **sampling)


def _config(settings: Settings) -> Any:
    model = Model.model_validate(
        {
            "preset": settings["preset"],
            "depth": settings["depth"],
            "hidden_size": settings["width"],
            "context_length": settings["max_tokens"],
        }
    )
    return derive_config(model, settings["vocab_size"])[0]


def _facts(model: nn.Module, settings: Settings) -> dict[str, Any]:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"parameters": parameters, "threads": torch.get_num_threads(), "texts": settings["texts"]}


def _rows(settings: Settings, tokenizer: Any) -> pd.DataFrame:
    """Texts of 22 to 256 tokens, every length as likely: 139 on average. Another maximum scales both."""
    most = settings["max_tokens"]
    count = settings["texts"] + VALIDATION_TEXTS
    lengths = np.random.default_rng(1).integers(max(2, round(22 / 256 * most)), most + 1, count)
    return pd.DataFrame(
        {
            "id": [str(number) for number in range(count)],
            "text": make_texts(tokenizer, lengths - 1),  # `bos` comes before each
            "label": [str(number % CLASSES) for number in range(count)],
            "split": ["train"] * settings["texts"] + ["validation"] * VALIDATION_TEXTS,
            "group": "",
        }
    )
