"""Stage `evaluate@TASK`: the fine-tuned model on the test split, beside its baselines."""

import sys

from pipeline.common.layout import FINETUNED, PLOTS, PREDICTIONS, SCRATCH_ARM, clean_task
from pipeline.stages.door import Stage, run_stage


def main(stage: Stage) -> None:
    import torch

    from pipeline.common.files import write_text
    from pipeline.common.tables import write_table
    from pipeline.evaluation.kinds import EVALUATIONS
    from pipeline.tasks.kinds import KINDS
    from pipeline.tasks.rows import read_rows
    from pipeline.training.runtime import choose_device

    device, reason = choose_device(stage.params.compute)
    torch.set_deterministic_debug_mode("error")  # `use_deterministic_algorithms` would import the compiler: 2 s
    stage.announce({"device": reason})
    name, table = stage.task_name, clean_task(stage.task_name)
    load, kind = KINDS[stage.task.kind].load, EVALUATIONS[stage.task.kind]
    evaluation = kind.evaluate(
        read_rows(table),
        str(table),
        load(FINETUNED / name, device.type),
        load(SCRATCH_ARM / name, device.type),
        task=stage.task,
        settings=stage.params.evaluate,
        seed=stage.params.seed,
    )
    write_table(PREDICTIONS / f"{name}.parquet", evaluation.predictions)
    write_text(PLOTS / name / "confusion.csv", evaluation.confusion.to_csv(index=False, lineterminator="\n"))
    stage.write_metrics(evaluation.metrics)
    print(f"{stage.name}  {kind.headline(evaluation.metrics)}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m pipeline.stages.evaluate TASK")
    run_stage(main, f"evaluate@{sys.argv[1]}")
