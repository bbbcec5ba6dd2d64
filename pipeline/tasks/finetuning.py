"""From a prepared task to a trained model: what the stage `finetune` and cross-validation do alike."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.common.params import Compute, Finetune
from pipeline.model.config import ModelConfig
from pipeline.model.weights import load_weights
from pipeline.tasks.batches import MOST_LENGTHS, LengthBuckets
from pipeline.tasks.kinds import KINDS
from pipeline.training.adapting import FLOPS_SHARES, adapt, describe_learning
from pipeline.training.loop import Report, TrainPlan, TrainResult, train
from pipeline.training.optimizers import finetuning_optimizers, trapezoid
from pipeline.training.runtime import Runtime, choose_device, choose_runtime

MOST_NAMED = 8


@dataclass(frozen=True)
class FineTuned:
    """A trained model with its best weights, how the training went, and on what.

    Attributes:
        tuned: what was chosen on validation then; it is in the task's config, too.
        validation: if there is such a thing, the figures with it.
    """

    model: Any
    result: TrainResult
    runtime: Runtime
    steps_per_epoch: int
    tuned: dict[str, float]
    validation: dict[str, float]


def fine_tune(
    task: Any,
    weights: Mapping[str, Tensor] | None,
    config: ModelConfig,
    settings: Finetune,
    compute: Compute,
    *,
    seed: int,
    name: str,
    scratch: Path,
    checkpoint_every: int,
    announce: Callable[[dict[str, Any]], None],
    report: Report,
) -> FineTuned:
    """Train a task's network, going on from `scratch` if a checkpoint is there.

    Args:
        task: a `pipeline.tasks.kinds.FinetuneTask`.
        weights: of the pretrained model; None: random ones.
        config: of its body.
        settings: of fine-tuning.
        compute: on what.
        seed: of the new weights, and of every random choice of a step.
        name: of the training, in what is printed.
        scratch: folder of the checkpoint and the curve; belongs to this training alone.
        checkpoint_every: steps, where an epoch is not shorter.
        announce: is told what was derived, before the first step.
        report: is told every logged point.
    """
    torch.manual_seed(seed)
    model = task.model()
    if weights is not None:
        own = {name for name, _ in model.body.named_parameters()}  # what predicts tokens stays behind
        load_weights(model.body, {name: value for name, value in weights.items() if name in own})
    adapt(model.body, settings)

    batches = training_batches(task, choose_device(compute)[0])
    steps = settings.epochs * batches.steps_per_epoch
    flops_per_token = KINDS[task.config["kind"]].flops_per_token(config) * FLOPS_SHARES[settings.adapt]
    flops = flops_per_token * settings.epochs * batches.tokens_per_epoch
    runtime = choose_runtime(compute, flops, shapes=len(batches.buckets))
    announce(
        {"learns": f"{settings.adapt}: {describe_learning(model)}"}
        | {"steps": f"{steps} ({settings.epochs} epochs x {batches.steps_per_epoch} batches)"}
        | {"padded_lengths": describe_lengths(batches.buckets)}
        | runtime.reasons
    )
    model.to(runtime.device)
    schedule = trapezoid(steps, settings.warmup_share, 1 - settings.warmup_share)
    result = train(
        model,
        task.loss,
        batches,
        finetuning_optimizers(model.body, model.head, settings, schedule, getattr(model, "experts", ())),
        TrainPlan(
            name=name,
            steps=steps,
            gradient_clip=settings.gradient_clip,
            validate_every=batches.steps_per_epoch,
            checkpoint_every=min(batches.steps_per_epoch, checkpoint_every),
            flops_per_token=flops_per_token,
            best_metric=task.best_metric,
            patience=settings.patience,
        ),
        runtime,
        scratch=scratch,
        validate=lambda: task.measure(model, runtime.device),
        report=report,
    )
    tuned, validation = _tune(task, model, runtime)
    return FineTuned(model, result, runtime, batches.steps_per_epoch, tuned, validation)


def training_batches(task: Any, device: torch.device) -> LengthBuckets:
    """The task's batches, of as many lengths as are good on the device."""
    batches: LengthBuckets = task.batches()
    batches.pad_to_few(MOST_LENGTHS[device.type])
    return batches


def describe_lengths(buckets: np.ndarray) -> str:
    """All, or where there are many, the first, the last and their number."""
    if len(buckets) <= MOST_NAMED:
        return ", ".join(str(length) for length in buckets)
    return f"{buckets[0]}, {buckets[1]} .. {buckets[-1]} ({len(buckets)} lengths)"


def _tune(task: Any, model: Any, runtime: Runtime) -> tuple[dict[str, float], dict[str, float]]:
    """Choose on validation what is not learned, and measure again with it; or nothing, where there is nothing."""
    tune = KINDS[task.config["kind"]].tune
    if tune is None:
        return {}, {}
    model.eval()
    with torch.no_grad(), runtime.autocast(), runtime.eager():
        tuned = tune(task, model, runtime.device)
        task.config |= tuned
        return tuned, task.measure(model, runtime.device) if tuned else {}
