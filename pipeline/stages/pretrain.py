"""Stage `pretrain`: token shards to a language model, on one rank or on several together (docs/distributed.md)."""

import shutil
from functools import partial
from typing import TYPE_CHECKING

from pipeline.common.layout import IMPORTED, PRETRAINED, TOKENIZER, TOKENS
from pipeline.stages.door import Stage, run_on_ranks

if TYPE_CHECKING:
    from pipeline.training.distributed import Ranks

CURVE_TOKENS = 32_768  # the curve's validations are quick; the final figure is measured on all validation text
BITS = "bits_per_byte"
TOKENS_PER_PARAMETER = 20  # Hoffmann et al. 2022, arXiv:2203.15556


def main(stage: Stage) -> None:
    from pipeline.training.distributed import join_ranks
    from pipeline.training.runtime import choose_device

    device, _ = choose_device(stage.params.compute)
    with join_ranks(device, stage.params.seed) as ranks:
        ranks.require_same("the stage's key (its code, data and settings)", stage.key)
        pretrain(stage, ranks)


def pretrain(stage: Stage, ranks: "Ranks") -> None:
    import torch

    from pipeline.model.accounting import cache_bytes_per_token, count_block_parameters, count_parameters
    from pipeline.model.interchange.importing import starting_model
    from pipeline.model.weights import save_checkpoint_folder
    from pipeline.tokenization.shards import open_shard
    from pipeline.tokenization.tokenizer import Tokenizer
    from pipeline.training.checkpoints import discard
    from pipeline.training.loop import METRICS_FILE, TrainPlan, train
    from pipeline.training.metrics_file import MetricsFile
    from pipeline.training.objectives import (
        PretrainingLoss,
        Validation,
        choose_objective,
        choose_packing,
        make_objective,
    )
    from pipeline.training.optimizers import make_schedule, pretraining_optimizers
    from pipeline.training.plan import (
        available_memory,
        choose_micro_batch,
        describe_cost,
        describe_memory,
        explain_out_of_memory,
    )
    from pipeline.training.runtime import choose_runtime
    from pipeline.training.sharding import describe_sharding, shard_model, whole_weights

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
    packing = f"{choose_packing(settings.packing, name)} ({'set' if settings.packing else f'objective {name}'})"
    parameters, in_blocks = count_parameters(model), count_block_parameters(model)
    flops_per_token = objective.flops_per_token(config)
    batches = objective.batches(train_shard, settings.batch_tokens, None, seed)
    batches.share(ranks.rank, ranks.size)
    step_tokens = batches.batch_rows * objective.row_length
    steps = settings.steps
    if steps is None:
        steps = max(1, TOKENS_PER_PARAMETER * in_blocks // step_tokens)
    is_set = settings.steps is not None
    training_flops = flops_per_token * steps * step_tokens
    runtime = choose_runtime(stage.params.compute, training_flops, ranks)
    memory, chosen = choose_micro_batch(model, config, settings, objective, len(batches.own_rows), runtime)
    batches.micro_rows = memory.shape.rows
    stage.announce(
        derived
        | {"objective": f"{name} ({'set' if stage.params.objective else f'family {config.family}'})"}
        | {f"parameters.{group}": count for group, count in parameters.items()}
        | {"parameters": sum(parameters.values()), "training_flops_per_token": f"{flops_per_token} (6 N + 12 L D T)"}
        | {"cache_bytes_per_token": f"{cache_bytes_per_token(config)} (2 x layers x width of keys, bfloat16)"}
        | {"steps": f"{steps} ({'set' if is_set else f'{TOKENS_PER_PARAMETER} x block parameters / batch'})"}
        | {"tokens": steps * step_tokens, "epochs": round(steps * batches.batch_rows / len(batches.windows), 3)}
        | batches.mixture.describe()
        | {"packing": f"{packing}, {len(batches.windows)} rows of {objective.row_length} tokens an epoch"}
        | runtime.reasons
        | describe_sharding(settings.sharding, ranks)
        | describe_memory(memory, chosen, runtime)
        | describe_cost(training_flops, runtime, stage.params.compute)
    )
    if steps:
        memory.refuse_if_over(available_memory(model, runtime.device))

    shard_model(model, settings.sharding, ranks, runtime.precision)
    model.to(runtime.device)
    schedule = make_schedule(settings, steps)
    shape = (batches.micro_rows, runtime.device)
    validation = partial(
        Validation, objective, validation_shard, tokenizer, *shape, ranks=ranks, logit_tokens=settings.logit_tokens
    )
    curve = validation(most_tokens=CURVE_TOKENS)
    with explain_out_of_memory(memory):
        result = train(
            model,
            PretrainingLoss(runtime, settings.logit_tokens),
            batches,
            pretraining_optimizers(model, settings, schedule),
            TrainPlan(
                name=stage.name,
                steps=steps,
                gradient_clip=settings.gradient_clip,
                validate_every=settings.validate_every,
                checkpoint_every=settings.checkpoint_every,
                keep_every=settings.keep_every,
                max_skipped_steps=settings.max_skipped_steps,
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
        final = validation()(model)
        weights = whole_weights(model, keep=ranks.is_first)
    if not ranks.is_first:
        return
    if not steps:  # an imported model as it is: the only point of its curve
        MetricsFile(result.metrics_path).append(0, {f"validation_{name}": value for name, value in final.items()})
    save_checkpoint_folder(PRETRAINED, weights, {"model": config.to_dict()}, tokenizer)
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
    discard(stage.scratch, settings.keep_every)


if __name__ == "__main__":
    run_on_ranks(main, "pretrain", lambda params: params.pretrain.processes)
