"""Tiny Shakespeare by the character: ours by the real loop, and nanoGPT at its published settings."""

import itertools
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.arms.machine import Machine
from benchmarks.arms.nanogpt import NanoGPT, Schedule, training_steps
from benchmarks.machine import wait_for_device
from pipeline.common.params import Compute, Model, Pretrain
from pipeline.model.config import derive_config
from pipeline.model.transformer import Transformer
from pipeline.tokenization.shards import TokenShard
from pipeline.tokenization.tokenizer import Tokenizer
from pipeline.tokenization.training import train_tokenizer
from pipeline.training.loop import TrainPlan, train
from pipeline.training.objectives import PretrainingLoss, Validation, make_objective
from pipeline.training.optimizers import make_schedule, pretraining_optimizers
from pipeline.training.runtime import choose_device, choose_runtime

HELD_OUT = 0.1
MEASURED_TOKENS = 8192  # at once
CHARACTERS = 400  # what the vocabulary has room for: 65 are in the text, and bytes for all others

# Ours: what was best in the time, see docs/experiments.md.
MODELS = {
    "small": Model(depth=1, hidden_size=128, context_length=64, ngram_sizes=[2, 3, 4], ngram_buckets=16_384),
    "large": Model(depth=4, hidden_size=192, context_length=128),
    "gpu": Model(depth=6, hidden_size=384, context_length=256, dropout=0.2),
}
TRAINING = {
    "small": Pretrain(steps=70, batch_tokens=2048, learning_rate=0.01),
    "large": Pretrain(steps=900, batch_tokens=4096, weight_decay=0.1),
    "gpu": Pretrain(steps=1000, batch_tokens=8192, weight_decay=0.1),
}


@dataclass(frozen=True)
class Published:
    """A setting of nanoGPT."""

    layers: int
    width: int
    heads: int
    context: int
    rows: int
    steps: int
    dropout: float

    @property
    def schedule(self) -> Schedule:
        return Schedule(peak=1e-3, lowest=1e-4, warmup=100, decay=self.steps, beta2=0.99)


PUBLISHED = {
    "small": Published(layers=4, width=128, heads=4, context=64, rows=12, steps=2000, dropout=0.0),
    "large": Published(layers=6, width=384, heads=6, context=256, rows=64, steps=5000, dropout=0.2),
}


def hallmark(path: Path, size: str, seed: int, steps: int | None) -> dict[str, Any]:
    """The real parts and the real loop."""
    changed = {} if steps is None else {"steps": steps}
    settings = TRAINING[size].model_copy(update={"packing": "stream"} | changed)  # it is one text
    assert settings.steps is not None
    tokenizer, learned, held_out = read_text(path)
    started = time.perf_counter()
    config, _ = derive_config(MODELS[size], tokenizer.vocab_size)
    objective = make_objective("causal", tokenizer, config.context_length, settings)
    tokens = settings.steps * settings.batch_tokens
    runtime = choose_runtime(Compute(), objective.flops_per_token(config) * tokens)
    torch.manual_seed(seed)
    model = Transformer(config).to(runtime.device)
    plan = TrainPlan(
        name=size,
        steps=settings.steps,
        gradient_clip=settings.gradient_clip,
        validate_every=settings.steps + 1,
        checkpoint_every=settings.steps,
        flops_per_token=objective.flops_per_token(config),
    )
    with tempfile.TemporaryDirectory(prefix="hallmark-benchmark-") as scratch:
        train(
            model,
            PretrainingLoss(runtime),
            objective.batches(learned, settings.batch_tokens, None, seed),
            pretraining_optimizers(model, settings, make_schedule(settings, settings.steps)),
            plan,
            runtime,
            scratch=Path(scratch),
            validate=dict,
            report=lambda _step, _values: None,
        )
    model.eval()
    measure = Validation(objective, held_out, tokenizer, MEASURED_TOKENS // config.context_length, runtime.device)
    with torch.no_grad(), runtime.autocast(), runtime.eager():
        loss = measure(model)["loss"]
    return _found(model, plan.steps, tokens, runtime.compile, loss, started)


def nanogpt(path: Path, size: str, seed: int, steps: int | None) -> dict[str, Any]:
    """At its published setting of this size."""
    chosen = PUBLISHED[size]
    tokenizer, learned, held_out = read_text(path)
    started = time.perf_counter()
    device, _ = choose_device(Compute())
    on_gpu = device.type == "cuda"
    machine = Machine(device, torch.bfloat16 if on_gpu else torch.float32, compiled=on_gpu)
    torch.manual_seed(seed)
    model = NanoGPT(
        tokenizer.vocab_size,
        chosen.context,
        chosen.layers,
        chosen.width,
        chosen.heads,
        tied=True,
        dropout=chosen.dropout,
    )
    count = steps or chosen.steps
    training = training_steps(model, learned.tokens, chosen.rows, chosen.context, machine, chosen.schedule)
    for _ in itertools.islice(training, count):
        pass
    model.eval()
    objective = make_objective("causal", tokenizer, chosen.context, Pretrain(packing="stream"))
    batches = objective.validation(held_out, MEASURED_TOKENS // chosen.context)
    nats = rows = 0.0
    with torch.no_grad(), torch.autocast(device.type, dtype=machine.precision, enabled=on_gpu):
        for batch in batches:
            ids_BT, labels_BT = batch["input_ids"].to(device), batch["labels"].to(device)
            nats, rows = nats + len(ids_BT) * float(model(ids_BT, labels_BT)), rows + len(ids_BT)
    tokens = count * chosen.rows * chosen.context
    return _found(model, count, tokens, machine.compiled, nats / rows, started)


def read_text(path: Path) -> tuple[Tokenizer, TokenShard, TokenShard]:
    """Its characters as tokens: the tokenizer, what is learned from, and what is held out."""
    text = path.read_text(encoding="utf-8")
    tokenizer = train_tokenizer([text], "characters", CHARACTERS)
    cut = round(len(text) * (1 - HELD_OUT))
    shards = []
    for part in (text[:cut], text[cut:]):
        tokens = np.array([tokenizer.bos_id, *tokenizer.encode(part)], dtype=np.uint16)
        shards.append(TokenShard(tokens, np.array([0, len(tokens)]), tokenizer.hash, len(part.encode())))
    return tokenizer, shards[0], shards[1]


def _found(model: nn.Module, steps: int, tokens: int, compiled: bool, loss: float, started: float) -> dict[str, Any]:
    wait_for_device()
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "steps": steps,
        "tokens": tokens,
        "compiled": compiled,
        "loss": loss,
        "seconds": time.perf_counter() - started,
    }
