"""Stage `prompt@TASK`: the pretrained model asked for a task's labels in words, with and without examples."""

import shutil
import sys

from pipeline.common.layout import PRETRAINED, PROMPTING, clean_task
from pipeline.stages.door import Stage, run_stage


def main(stage: Stage) -> None:
    import torch

    from pipeline.common.errors import HallmarkError, allowed
    from pipeline.common.tables import write_table
    from pipeline.model.config import ModelConfig
    from pipeline.model.transformer import Transformer
    from pipeline.model.weights import load_weights, read_weights
    from pipeline.prompting.experiment import prompt_task
    from pipeline.prompting.figures import measure
    from pipeline.prompting.page import print_prompting, write_prompting
    from pipeline.tasks.rows import read_rows
    from pipeline.training.runtime import choose_device

    name, table, folder = stage.task_name, clean_task(stage.task_name), PROMPTING / stage.task_name
    if name not in stage.params.prompting:
        raise HallmarkError(
            f"the task {name!r} is not prompted; {allowed(stage.params.prompting)}", where="params.yaml: prompting"
        )
    settings = stage.params.prompting[name]
    device, reason = choose_device(stage.params.compute)
    torch.set_deterministic_debug_mode("error")  # `use_deterministic_algorithms` would import the compiler: 2 s
    weights, described, tokenizer = read_weights(PRETRAINED)
    model = Transformer(ModelConfig.from_dict(described["model"]))
    load_weights(model, weights)
    stage.announce({"device": reason, "precision": "float32"})
    prompted = prompt_task(
        read_rows(table),
        str(table),
        model.to(device).eval(),
        tokenizer,
        task=stage.task,
        settings=settings,
        seed=stage.params.seed,
    )
    stage.announce(prompted.facts)
    if not prompted.runs:
        raise HallmarkError("nothing fits the model's context")
    found = measure(prompted, stage.params.evaluate, stage.params.seed)
    shutil.rmtree(folder, ignore_errors=True)
    write_table(folder / "predictions.parquet", prompted.predictions())
    write_prompting(folder, name, settings, prompted, found)
    refused = {
        f"{refusal.method}_{refusal.shots}": {"too_long": refusal.too_long, "prompts": refusal.prompts}
        for refusal in prompted.refusals
    }
    stage.write_metrics(found.to_metrics() | prompted.facts | {"refused": refused})
    stage.journal.artifact(folder)
    print_prompting(prompted, found)
    print(f"{stage.name}  {(folder / 'index.html').resolve()}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m pipeline.stages.prompt TASK")
    run_stage(main, f"prompt@{sys.argv[1]}")
