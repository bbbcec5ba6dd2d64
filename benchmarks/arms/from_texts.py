"""A task from its own texts alone: a network learns their language, and then the task from their labels."""

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipeline.common.params import Compute, Finetune, Model, Pretrain, Task, Tokenizer
from pipeline.model.config import ModelConfig, derive_config
from pipeline.model.transformer import Transformer
from pipeline.model.weights import named_weights
from pipeline.tasks.finetuning import fine_tune
from pipeline.tasks.kinds import KINDS
from pipeline.tasks.trained import save_trained
from pipeline.tokenization.shards import TokenShard
from pipeline.tokenization.tokenizer import Tokenizer as Vocabulary
from pipeline.tokenization.training import train_tokenizer
from pipeline.training.loop import TrainPlan, train
from pipeline.training.objectives import PretrainingLoss, choose_objective, make_objective
from pipeline.training.optimizers import make_schedule, pretraining_optimizers
from pipeline.training.runtime import choose_runtime

MOST_STEPS = 1_000_000  # between checkpoints, where none is needed


@dataclass(frozen=True)
class Pretrained:
    """A network: its vocabulary, its shape, and its weights on the CPU (None: random ones, in each fine-tuning new)."""

    tokenizer: Vocabulary
    config: ModelConfig
    weights: Mapping[str, Tensor] | None


def learn_language(
    texts: Sequence[str], vocabulary: Tokenizer, network: Model, settings: Pretrain, seed: int
) -> Pretrained:
    """A vocabulary and a network from the texts, by the objective of its family; nothing is held out.

    Args:
        settings: of pretraining; `steps` is a number, and 0 is none.
    """
    assert settings.steps is not None
    tokenizer = train_tokenizer(texts, vocabulary.kind, vocabulary.vocab_size, vocabulary.lowercase)
    config, _ = derive_config(network, tokenizer.vocab_size)
    if settings.steps == 0:
        return Pretrained(tokenizer, config, None)
    objective = make_objective(choose_objective(None, config.family), tokenizer, config.context_length, settings)
    flops = objective.flops_per_token(config)
    runtime = choose_runtime(Compute(), flops * settings.steps * settings.batch_tokens)
    torch.manual_seed(seed)
    model = Transformer(config).to(runtime.device)
    with tempfile.TemporaryDirectory(prefix="hallmark-benchmark-") as scratch:
        train(
            model,
            PretrainingLoss(runtime),
            objective.batches(encode_documents(texts, tokenizer), settings.batch_tokens, None, seed),
            pretraining_optimizers(model, settings, make_schedule(settings, settings.steps)),
            TrainPlan(
                name="pretraining",
                steps=settings.steps,
                gradient_clip=settings.gradient_clip,
                validate_every=settings.steps + 1,
                checkpoint_every=settings.steps,
                flops_per_token=flops,
            ),
            runtime,
            scratch=Path(scratch),
            validate=dict,
            report=lambda _step, _values: None,
        )
    return Pretrained(tokenizer, config, named_weights(model))


def encode_documents(texts: Sequence[str], tokenizer: Vocabulary) -> TokenShard:
    documents = [[tokenizer.bos_id, *tokenizer.encode(text)] for text in texts]
    return TokenShard(
        np.concatenate(documents).astype(np.uint32),
        np.cumsum([0, *map(len, documents)]),
        tokenizer.hash,
        sum(len(text.encode()) for text in texts),
    )


def learn_task(
    rows: pd.DataFrame, where: str, pretrained: Pretrained, task: Task, settings: Finetune, seed: int
) -> Any:
    """Fine-tune as the stage `finetune` does, and load what it saved as the stage `evaluate` does.

    Args:
        rows: the task's table, read from `where`.

    Returns:
        The trained model of the task's kind, which answers to `predict`.
    """
    kind, tokenizer, config = KINDS[task.kind], pretrained.tokenizer, pretrained.config
    prepared = kind.prepare(rows, where, tokenizer, task, settings, config, seed)
    with tempfile.TemporaryDirectory(prefix="hallmark-benchmark-") as scratch:
        trained = fine_tune(
            prepared,
            pretrained.weights,
            config,
            settings,
            Compute(),
            seed=seed,
            name=task.kind,
            scratch=Path(scratch),
            checkpoint_every=MOST_STEPS,
            announce=lambda _facts: None,
            report=lambda _step, _values: None,
        )
        folder, runtime = Path(scratch) / "trained", trained.runtime
        folder.mkdir()
        save_trained(folder, trained.model, prepared.config, str(runtime.precision).removeprefix("torch."), tokenizer)
        return kind.load(folder, runtime.device.type)


def over_draws(values: list[float]) -> dict[str, Any]:
    """What a figure was in each draw, "values", and their "mean" and "deviation" (None of one)."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"values": values, "mean": statistics.mean(values), "deviation": deviation}
