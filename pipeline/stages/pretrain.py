"""Stage `pretrain`: token shards to a language model."""

import shutil

from pipeline.common.layout import PRETRAINED, TOKENIZER, TOKENS
from pipeline.stages.door import Stage, run_stage

CURVE_TOKENS = 32_768  # the curve's validations are quick; the final figure is measured on all validation text
TOKENS_PER_PARAMETER = 20  # Hoffmann et al. 2022, arXiv:2203.15556


def main(stage: Stage) -> None:
    import torch

    from pipeline.model.accounting import count_parameters, training_flops_per_token
    from pipeline.model.config import derive_config
    from pipeline.model.decoder import Decoder
    from pipeline.model.weights import named_weights, save_checkpoint_folder
    from pipeline.tokenization.shards import open_shard
    from pipeline.tokenization.tokenizer import Tokenizer
    from pipeline.training.language_modeling import BitsPerByte, CausalLoss, TokenWindows
    from pipeline.training.loop import METRICS_FILE, TrainPlan, train
    from pipeline.training.optimizers import pretraining_optimizers, trapezoid
    from pipeline.training.runtime import choose_runtime

    settings, seed = stage.params.pretrain, stage.params.seed
    tokenizer = Tokenizer.load(TOKENIZER)
    train_shard = open_shard(TOKENS, "train", tokenizer.hash)
    validation_shard = open_shard(TOKENS, "validation", tokenizer.hash)

    config, derived = derive_config(stage.params.model, tokenizer.vocab_size)
    torch.manual_seed(seed)
    model = Decoder(config)
    parameters = count_parameters(model)
    flops_per_token = training_flops_per_token(config)
    batches = TokenWindows(train_shard, config.context_length, settings.batch_tokens, settings.micro_batch_tokens, seed)
    step_tokens = batches.batch_windows * config.context_length
    steps = settings.steps or max(1, TOKENS_PER_PARAMETER * parameters["blocks"] // step_tokens)
    runtime = choose_runtime(stage.params.compute, flops_per_token * steps * step_tokens)
    stage.announce(
        derived
        | {f"parameters.{group}": count for group, count in parameters.items()}
        | {"parameters": sum(parameters.values()), "training_flops_per_token": f"{flops_per_token} (6 N + 12 L D T)"}
        | {"steps": f"{steps} ({'set' if settings.steps else f'{TOKENS_PER_PARAMETER} x block parameters / batch'})"}
        | {"tokens": steps * step_tokens, "epochs": round(steps * step_tokens / len(train_shard.tokens), 3)}
        | runtime.reasons
    )

    model.to(runtime.device)
    schedule = trapezoid(steps, settings.warmup_share, settings.decay_share)
    measure = (validation_shard, tokenizer.token_bytes, config.context_length, batches.micro_windows, runtime.device)
    curve = BitsPerByte(*measure, most_tokens=CURVE_TOKENS)
    result = train(
        model,
        CausalLoss(runtime),
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
        final = BitsPerByte(*measure)(model)
    save_checkpoint_folder(PRETRAINED, named_weights(model), {"model": config.to_dict()}, tokenizer)
    shutil.copyfile(result.metrics_path, PRETRAINED / METRICS_FILE)
    stage.write_metrics(
        {
            "bits_per_byte": final["bits_per_byte"],
            "validation_loss": final["loss"],
            "steps": steps,
            "tokens": steps * step_tokens,
            "parameters": sum(parameters.values()),
        }
    )
    shutil.rmtree(stage.scratch)


if __name__ == "__main__":
    run_stage(main, "pretrain")
