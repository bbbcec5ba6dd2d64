"""Pretraining on random tokens: ours, nanoGPT's loop, and `Trainer`.

All take the same settings: "arm", "preset" (of our network), "published_preset" (of a peer's), "depth", "width",
"tied", "context", "batch" (rows), "vocab_size", "steps" (of a round), "eager". With each round they tell
"parameters", "flops_per_token", "step_tokens", "threads", "precision" and "compiled".
"""

from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.arms.endless import ENDLESS, train_endlessly
from benchmarks.arms.machine import best_compute, best_machine
from benchmarks.synthetic import make_shard, make_tokenizer
from benchmarks.turns import Clock
from pipeline.common.params import Model, Pretrain
from pipeline.model.config import ModelConfig, derive_config
from pipeline.model.transformer import Transformer
from pipeline.training.objectives import Objective, PretrainingLoss, choose_objective, make_objective
from pipeline.training.optimizers import pretraining_optimizers, trapezoid
from pipeline.training.runtime import choose_runtime

SHARD_TOKENS = 1_000_000
Settings = dict[str, Any]


def hallmark(clock: Clock, settings: Settings) -> None:
    """The real parts and the real loop."""
    pretrain = Pretrain(optimizer=settings["arm"].removeprefix("hallmark-"))
    config, objective, tokens = _task(settings, settings["preset"], pretrain)
    runtime = choose_runtime(best_compute(settings["eager"]), 0)
    torch.manual_seed(0)
    model = Transformer(config).to(runtime.device)
    _tell(clock, settings, config, objective, model, runtime.precision, runtime.compile)
    train_endlessly(
        clock,
        model,
        PretrainingLoss(runtime),
        objective.batches(tokens, settings["batch"] * objective.row_length, None, 0),
        pretraining_optimizers(model, pretrain, trapezoid(ENDLESS, 0.001, 0.4)),
        runtime,
        name=settings["arm"],
        gradient_clip=pretrain.gradient_clip,
        flops_per_token=objective.flops_per_token(config),
    )


def nanogpt(clock: Clock, settings: Settings) -> None:
    """Its FLOPs are counted as GPT-2's."""
    from benchmarks.arms.nanogpt import NanoGPT, train

    config, objective, shard = _task(settings, settings["published_preset"], Pretrain())
    machine = best_machine(best_compute(settings["eager"]))
    torch.manual_seed(0)
    model = NanoGPT(
        config.vocab_size,
        config.context_length,
        config.num_layers,
        config.hidden_size,
        config.num_heads,
        config.tied_embeddings,
    )
    _tell(clock, settings, config, objective, model, machine.precision, machine.compiled)
    train(clock, model, shard.tokens, settings["batch"], config.context_length, machine)


def trainer(clock: Clock, settings: Settings) -> None:
    """Eager, as `Trainer` comes."""
    from benchmarks.arms import trainer as peer

    config, objective, shard = _task(settings, settings["published_preset"], Pretrain())
    machine = best_machine(best_compute(settings["eager"]))
    torch.manual_seed(0)
    model = peer.published_language_model(config)
    _tell(clock, settings, config, objective, model, machine.precision, False)
    length = target_length = objective.row_length
    collate = peer.masked_labels if config.family == "encoder" else peer.same_labels
    if config.family == "encoder-decoder":
        target_length = round(objective.target_share * length)
        collate, length = peer.source_and_target(length), length + target_length
    windows = peer.TokenWindows(shard.tokens.astype(np.int64), length)
    peer.train(clock, model, windows, collate, settings["batch"], machine)


def _task(settings: Settings, preset: str, pretrain: Pretrain) -> tuple[ModelConfig, Objective, Any]:
    """The network, what it learns, and the tokens."""
    model = Model.model_validate(
        {
            "preset": preset,
            "depth": settings["depth"],
            "hidden_size": settings["width"],
            "context_length": settings["context"],
            "tied_embeddings": settings["tied"],
        }
    )
    config, _ = derive_config(model, settings["vocab_size"])
    tokenizer = make_tokenizer(settings["vocab_size"])
    as_peers = pretrain.model_copy(update={"packing": "stream"})
    objective = make_objective(choose_objective(None, config.family), tokenizer, config.context_length, as_peers)
    return config, objective, make_shard(tokenizer, SHARD_TOKENS)


def _tell(
    clock: Clock,
    settings: Settings,
    config: ModelConfig,
    objective: Objective,
    model: nn.Module,
    precision: torch.dtype,
    compiled: bool,
) -> None:
    clock.steps = settings["steps"]
    clock.facts = {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "flops_per_token": objective.flops_per_token(config),
        "step_tokens": settings["batch"] * objective.row_length,
        "threads": torch.get_num_threads(),
        "precision": str(precision).removeprefix("torch."),
        "compiled": compiled,
    }
