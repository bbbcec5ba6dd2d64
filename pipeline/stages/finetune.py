"""Stages `finetune@TASK` and `scratch@TASK`: labelled rows to a fine-tuned model, from pretrained or random weights."""

import shutil
import sys
from typing import Any

from pipeline.common.layout import FINETUNED, PRETRAINED, SCRATCH_ARM, clean_task
from pipeline.stages.door import Stage, run_stage

FROM_SCRATCH = "--from-scratch"
CHECKPOINT_EVERY = 50  # steps, where an epoch is not shorter


def main(stage: Stage) -> None:
    import torch

    from pipeline.common.files import read_jsonl
    from pipeline.model import adapters
    from pipeline.model.accounting import body_flops_per_token
    from pipeline.model.config import ModelConfig
    from pipeline.model.weights import load_weights, read_config, read_tokenizer, read_weights
    from pipeline.tasks.distillation import take_teacher
    from pipeline.tasks.kinds import KINDS
    from pipeline.tasks.rows import read_rows
    from pipeline.tasks.trained import save_trained
    from pipeline.training.adapting import FLOPS_SHARES, adapt, describe_learning
    from pipeline.training.checkpoints import discard
    from pipeline.training.loop import METRICS_FILE, TrainPlan, train
    from pipeline.training.optimizers import finetuning_optimizers, trapezoid
    from pipeline.training.runtime import choose_device, choose_runtime

    settings, seed, table = stage.params.finetune, stage.params.seed, clean_task(stage.task_name)
    from_scratch = stage.name.startswith("scratch@")
    folder = (SCRATCH_ARM if from_scratch else FINETUNED) / stage.task_name
    if from_scratch:  # random weights that stay as they are, or nearly, would be no baseline
        settings = settings.model_copy(update={"adapt": "full", "layer_rate_decay": 1.0})
    described = read_config(PRETRAINED)
    config = ModelConfig.from_dict(described["model"])
    tokenizer = read_tokenizer(PRETRAINED, described)
    task = KINDS[stage.task.kind].prepare(read_rows(table), str(table), tokenizer, stage.task, settings, config, seed)

    taught: dict[str, Any] = {}
    if stage.task.teacher is not None:
        device, _ = choose_device(stage.params.compute)
        taught = take_teacher(task, stage.task.teacher, str(device), stage.scratch)

    torch.manual_seed(seed)
    model = task.model()
    if not from_scratch:
        weights, _, _ = read_weights(PRETRAINED)
        own = {name for name, _ in model.body.named_parameters()}  # what predicts tokens stays behind
        load_weights(model.body, {name: value for name, value in weights.items() if name in own})
    adapt(model.body, settings)

    batches = task.batches()
    steps = settings.epochs * batches.steps_per_epoch
    flops_per_token = body_flops_per_token(config) * FLOPS_SHARES[settings.adapt]
    flops = flops_per_token * settings.epochs * batches.tokens_per_epoch
    runtime = choose_runtime(stage.params.compute, flops / len(task.buckets))  # each length is compiled on its own
    stage.announce(
        {name: value for name, value in (task.facts | taught).items() if value != {}}
        | {"starts_from": "random weights" if from_scratch else str(PRETRAINED)}
        | {"learns": f"{settings.adapt}: {describe_learning(model)}"}
        | {"steps": f"{steps} ({settings.epochs} epochs x {batches.steps_per_epoch} batches)"}
        | {"padded_lengths": ", ".join(str(length) for length in task.buckets)}
        | runtime.reasons
    )
    model.to(runtime.device)
    schedule = trapezoid(steps, settings.warmup_share, 1 - settings.warmup_share)
    result = train(
        model,
        task.loss,
        batches,
        finetuning_optimizers(model.body, model.head, settings, schedule),
        TrainPlan(
            name=stage.name,
            steps=steps,
            gradient_clip=settings.gradient_clip,
            validate_every=batches.steps_per_epoch,
            checkpoint_every=min(batches.steps_per_epoch, CHECKPOINT_EVERY),
            flops_per_token=flops_per_token,
            best_metric=task.best_metric,
            patience=settings.patience,
        ),
        runtime,
        scratch=stage.scratch,
        validate=lambda: task.measure(model, runtime.device),
        report=stage.journal.metrics,
    )
    stage.timings.update(tokens_per_second=result.tokens_per_second, mfu=result.mfu)

    (folder / adapters.ADAPTERS).unlink(missing_ok=True)
    if settings.adapt == "lora":
        given = settings.lora_rank, settings.lora_alpha, settings.lora_targets
        adapters.save_adapters(folder / adapters.ADAPTERS, model, described["weights_sha256"], *given)
        adapters.merge_adapters(model.body)
    save_trained(folder, model, task.config, str(runtime.precision).removeprefix("torch."), tokenizer)
    shutil.copyfile(result.metrics_path, folder / METRICS_FILE)
    prefix = "validation_"
    best = next(
        {name.removeprefix(prefix): value for name, value in point.items() if name.startswith(prefix)}
        for point in read_jsonl(result.metrics_path)
        if point["step"] == result.best_step and prefix + task.best_metric in point
    )
    stage.write_metrics(
        {
            "validation": best,
            "best_epoch": (result.best_step or 0) // batches.steps_per_epoch,
            "epochs": result.steps // batches.steps_per_epoch,
            "steps": result.steps,
            **task.facts,
            **taught,
        }
    )
    discard(stage.scratch)


if __name__ == "__main__":
    arguments = [argument for argument in sys.argv[1:] if argument != FROM_SCRATCH]
    if len(arguments) != 1:
        sys.exit(f"usage: python -m pipeline.stages.finetune TASK [{FROM_SCRATCH}]")
    arm = "scratch" if FROM_SCRATCH in sys.argv else "finetune"
    run_stage(main, f"{arm}@{arguments[0]}")
