"""Stage `evaluate@TASK`: the fine-tuned model on the test split, beside its baselines."""

import sys

from pipeline.common.layout import FINETUNED, PLOTS, PREDICTIONS, SCRATCH_ARM, clean_task
from pipeline.stages.door import Stage, run_stage


def main(stage: Stage) -> None:
    import torch

    from pipeline.common.files import write_text
    from pipeline.common.tables import write_table
    from pipeline.evaluation.classification import evaluate_classification
    from pipeline.tasks.classification import load_classifier
    from pipeline.tasks.rows import read_rows
    from pipeline.training.runtime import choose_device

    device, reason = choose_device(stage.params.compute)
    torch.set_deterministic_debug_mode("error")  # `use_deterministic_algorithms` would import the compiler: 2 s
    stage.announce({"device": reason})
    name, table = stage.task_name, clean_task(stage.task_name)
    evaluation = evaluate_classification(
        read_rows(table),
        str(table),
        load_classifier(FINETUNED / name, device.type),
        load_classifier(SCRATCH_ARM / name, device.type),
        task=stage.task,
        settings=stage.params.evaluate,
        seed=stage.params.seed,
    )
    write_table(PREDICTIONS / f"{name}.parquet", evaluation.predictions)
    write_text(PLOTS / name / "confusion.csv", evaluation.confusion.to_csv(index=False, lineterminator="\n"))
    stage.write_metrics(evaluation.metrics)
    macro_f1 = evaluation.metrics["macro_f1"]
    print(f"{stage.name}  macro-F1 {macro_f1['value']:.3f} ({macro_f1['low']:.3f} to {macro_f1['high']:.3f})")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m pipeline.stages.evaluate TASK")
    run_stage(main, f"evaluate@{sys.argv[1]}")
