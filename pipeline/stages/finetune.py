"""Stages `finetune@TASK` and `scratch@TASK`: labelled rows to a fine-tuned model, from pretrained or random weights."""

import shutil
import sys
from typing import Any

from pipeline.common.layout import FINETUNED, PRETRAINED, SCRATCH_ARM, clean_task
from pipeline.stages.door import Stage, run_stage

FROM_SCRATCH = "--from-scratch"
CHECKPOINT_EVERY = 50  # steps, where an epoch is not shorter


def main(stage: Stage) -> None:
    from pipeline.common.files import read_jsonl
    from pipeline.model import adapters
    from pipeline.model.config import ModelConfig
    from pipeline.model.weights import read_config, read_tokenizer, read_weights
    from pipeline.tasks.distillation import take_teacher
    from pipeline.tasks.finetuning import fine_tune
    from pipeline.tasks.kinds import KINDS
    from pipeline.tasks.rows import read_rows
    from pipeline.tasks.trained import save_trained
    from pipeline.training.checkpoints import discard
    from pipeline.training.loop import METRICS_FILE
    from pipeline.training.runtime import choose_device

    settings, seed, table = stage.params.finetune, stage.params.seed, clean_task(stage.task_name)
    from_scratch = stage.name.startswith("scratch@")
    folder = (SCRATCH_ARM if from_scratch else FINETUNED) / stage.task_name
    if from_scratch:  # random weights that stay as they are, or nearly, would be no baseline
        settings = settings.model_copy(update={"adapt": "full", "layer_rate_decay": 1.0})
    described = read_config(PRETRAINED)
    config = ModelConfig.from_dict(described["model"])
    tokenizer = read_tokenizer(PRETRAINED, described)
    kind = KINDS[stage.task.kind]
    task = kind.prepare(read_rows(table), str(table), tokenizer, stage.task, settings, config, seed)

    taught: dict[str, Any] = {}
    if stage.task.teacher is not None:
        device, _ = choose_device(stage.params.compute)
        taught = take_teacher(task, stage.task.teacher, str(device), stage.scratch)

    stage.announce(
        {name: value for name, value in (task.facts | taught).items() if value != {}}
        | {"starts_from": "random weights" if from_scratch else str(PRETRAINED)}
    )
    trained = fine_tune(
        task,
        None if from_scratch else read_weights(PRETRAINED)[0],
        config,
        settings,
        stage.params.compute,
        seed=seed,
        name=stage.name,
        scratch=stage.scratch,
        checkpoint_every=CHECKPOINT_EVERY,
        announce=stage.announce,
        report=stage.journal.metrics,
    )
    model, result = trained.model, trained.result
    if trained.tuned:
        stage.announce(trained.tuned)
    stage.timings.update(tokens_per_second=result.tokens_per_second, mfu=result.mfu)

    (folder / adapters.ADAPTERS).unlink(missing_ok=True)
    if settings.adapt == "lora":
        given = settings.lora_rank, settings.lora_alpha, settings.lora_targets
        adapters.save_adapters(folder / adapters.ADAPTERS, model, described["weights_sha256"], *given)
        adapters.merge_adapters(model.body)
    save_trained(folder, model, task.config, str(trained.runtime.precision).removeprefix("torch."), tokenizer)
    shutil.copyfile(result.metrics_path, folder / METRICS_FILE)
    prefix = "validation_"
    best = next(
        {name.removeprefix(prefix): value for name, value in point.items() if name.startswith(prefix)}
        for point in read_jsonl(result.metrics_path)
        if point["step"] == result.best_step and prefix + task.best_metric in point
    )
    stage.write_metrics(
        {
            "validation": best | trained.validation,
            **trained.tuned,
            "best_epoch": (result.best_step or 0) // trained.steps_per_epoch,
            "epochs": result.steps // trained.steps_per_epoch,
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
