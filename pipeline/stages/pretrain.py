"""Stage `pretrain`: token shards to a language model."""

import shutil

from pipeline.common.layout import IMPORTED, PRETRAINED, TOKENIZER, TOKENS
from pipeline.stages.door import Stage, run_stage

CURVE_TOKENS = 32_768  # the curve's validations are quick; the final figure is measured on all validation text
BITS = "bits_per_byte"
TOKENS_PER_PARAMETER = 20  # Hoffmann et al. 2022, arXiv:2203.15556


def main(stage: Stage) -> None:
    import torch

    from pipeline.model.accounting import cache_bytes_per_token, count_block_parameters, count_parameters
    from pipeline.model.interchange.importing import starting_model
    from pipeline.model.weights import named_weights, save_checkpoint_folder
    from pipeline.tokenization.shards import open_shard
    from pipeline.tokenization.tokenizer import Tokenizer
    from pipeline.training.loop import METRICS_FILE, TrainPlan, train
    from pipeline.training.metrics_file import MetricsFile
    from pipeline.training.objectives import PretrainingLoss, Validation, choose_objective, make_objective
    from pipeline.training.optimizers import pretraining_optimizers, trapezoid
    from pipeline.training.runtime import choose_runtime

    settings, seed = stage.params.pretrain, stage.params.seed
    tokenizer = Tokenizer.load(TOKENIZER)
    train_shard = open_shard(TOKENS, "train", tokenizer.hash)
    validation_shard = open_shard(TOKENS, "validation", tokenizer.hash)

    wants_pairs = stage.params.objective == "mlm+nsp"
    torch.manual_seed(seed)
    model, derived = starting_model(stage.params.model, IMPORTED, tokenizer.vocab_size, pair_head=wants_pairs)
    config = model.config
    name = choose_objective(stage.params.objective, config.family)
    objective = make_objective(name, tokenizer, config.context_length, settings)
    parameters, in_blocks = count_parameters(model), count_block_parameters(model)
    flops_per_token = objective.flops_per_token(config)
    batches = objective.batches(train_shard, settings.batch_tokens, settings.micro_batch_tokens, seed)
    step_tokens = batches.batch_rows * objective.row_length
    steps = settings.steps
    if steps is None:
        steps = max(1, TOKENS_PER_PARAMETER * in_blocks // step_tokens)
    is_set = settings.steps is not None
    training_flops = flops_per_token * steps * step_tokens
    runtime = choose_runtime(stage.params.compute, training_flops)
    stage.announce(
        derived
        | {"objective": f"{name} ({'set' if stage.params.objective else f'family {config.family}'})"}
        | {f"parameters.{group}": count for group, count in parameters.items()}
        | {"parameters": sum(parameters.values()), "training_flops_per_token": f"{flops_per_token} (6 N + 12 L D T)"}
        | {"cache_bytes_per_token": f"{cache_bytes_per_token(config)} (2 x layers x width of keys, bfloat16)"}
        | {"steps": f"{steps} ({'set' if is_set else f'{TOKENS_PER_PARAMETER} x block parameters / batch'})"}
        | {"tokens": steps * step_tokens, "epochs": round(steps * batches.batch_rows / len(batches.windows), 3)}
        | runtime.reasons
    )

    model.to(runtime.device)
    schedule = trapezoid(steps, settings.warmup_share, settings.decay_share)
    measure = (objective, validation_shard, tokenizer, batches.micro_rows, runtime.device)
    curve = Validation(*measure, most_tokens=CURVE_TOKENS)
    result = train(
        model,
        PretrainingLoss(runtime),
        batches,
        pretraining_optimizers(model, settings, schedule),
        TrainPlan(
            name=stage.name,
            steps=steps,
            gradient_clip=settings.gradient_clip,
            validate_every=settings.validate_every,
            checkpoint_every=settings.checkpoint_every,
            flops_per_token=flops_per_token,
        ),
        runtime,
        scratch=stage.scratch,
        validate=lambda: curve(model),
        report=stage.journal.metrics,
    )
    stage.timings.update(tokens_per_second=result.tokens_per_second, mfu=result.mfu)

    model.eval()
    with torch.no_grad(), runtime.autocast(), runtime.eager():
        final = Validation(*measure)(model)
    if not steps:  # an imported model as it is: the only point of its curve
        MetricsFile(result.metrics_path).append(0, {f"validation_{name}": value for name, value in final.items()})
    save_checkpoint_folder(PRETRAINED, named_weights(model), {"model": config.to_dict()}, tokenizer)
    shutil.copyfile(result.metrics_path, PRETRAINED / METRICS_FILE)
    stage.write_metrics(
        {
            **{f"validation_{measured}" if measured != BITS else BITS: value for measured, value in final.items()},
            "steps": steps,
            "tokens": steps * step_tokens,
            "training_flops": training_flops,
            "parameters": sum(parameters.values()),
        }
    )
    shutil.rmtree(stage.scratch)


if __name__ == "__main__":
    run_stage(main, "pretrain")
