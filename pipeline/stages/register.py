"""Stage `register@TASK`: the fine-tuned model as a package that proves itself, and a version in the registry."""

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.common.errors import HallmarkError
from pipeline.common.layout import FINETUNED, PREDICTIONS, REGISTERED, clean_task
from pipeline.stages.door import Stage, run_stage

if TYPE_CHECKING:
    from pipeline.serving.kinds import Difference

COMPARED_ROWS = 512  # of the test split, evenly spread
EXAMPLES, EXAMPLE_CHARACTERS = 2, 200
# Of a probability, by what the model predicts in. In bfloat16 one other last bit changed some by up to 2.6e-4, other
# instructions (no AMX) by 6.7e-4; another model is further off, or answers otherwise.
TOLERANCES = {"float32": 1e-5, "bfloat16": 2**-8}


def main(stage: Stage) -> None:
    from pipeline.common.tables import read_table, records
    from pipeline.model.weights import read_config
    from pipeline.serving.kinds import find_served
    from pipeline.serving.package import write_package
    from pipeline.serving.reload import predict_in_fresh_process
    from pipeline.serving.save import save_pyfunc
    from pipeline.tasks.rows import evenly

    task = stage.task_name
    predictions = read_table(PREDICTIONS / f"{task}.parquet")
    predictions = predictions.dropna(subset=["predicted"])  # of dialogues only some are answered
    predictions = predictions.iloc[evenly(len(predictions), COMPARED_ROWS)]
    table = read_table(clean_task(task)).set_index("id", drop=False)
    served = find_served(stage.task.kind, "pair" in table)
    rows = records(table.loc[predictions["id"]])
    requests = [served.request(row) for row in rows]

    examples = [served.request(row | {"text": row["text"][:EXAMPLE_CHARACTERS]}) for row in rows[:EXAMPLES]]
    package = write_package(FINETUNED / task, REGISTERED / task, examples)
    saved = stage.scratch / "model"
    shutil.rmtree(saved, ignore_errors=True)
    save_pyfunc(package, saved)
    answers = predict_in_fresh_process(saved, requests)
    found = [served.compare(*pair) for pair in zip(records(predictions), answers, strict=True)]
    tolerance = TOLERANCES[read_config(FINETUNED / task)["task"]["precision"]]
    refuse_difference(predictions["id"].tolist(), found, tolerance, where=str(PREDICTIONS / f"{task}.parquet"))
    stage.announce({"package_hash": package.hash, "reloaded": describe(found)})
    stage.write_metrics({"package_hash": package.hash, "rows_compared": len(requests)})
    register(stage, saved)
    shutil.rmtree(stage.scratch)


def refuse_difference(ids: list[str], found: list["Difference"], tolerance: float, where: str) -> None:
    """Refuse a model that is not the one that `evaluate` asked.

    Args:
        tolerance: by how much a probability may differ.

    Raises:
        HallmarkError: any row is answered otherwise, or a probability differs by more than the tolerance.
    """
    other = [name for name, difference in zip(ids, found, strict=True) if difference.other]
    largest = max(difference.probability for difference in found)
    if not other and largest <= tolerance:
        return
    first = f"; first: {', '.join(other[:5])}" if other else ""
    raise HallmarkError(
        f"the reloaded model does not predict what `evaluate` predicted: {len(other)} of {len(ids)} answers "
        f"differ, probabilities by up to {largest:.1e}{first}",
        where=where,
        fix="were they made on another machine or device? then: dvc repro --force-downstream evaluate@TASK",
    )


def describe(found: list["Difference"]) -> str:
    said = f"{len(found)} test rows predicted alike by a fresh process"
    apart = [difference.probability for difference in found if difference.probability > 0]
    if not apart:
        return f"{said}, to the last bit"
    return f"{said}; in {len(apart)} a probability differs, by up to {max(apart):.1e}"


def register(stage: Stage, saved: Path) -> None:
    """A registry that is away fails no stage: the package is built, and can be put there later."""
    from pipeline.tracking.mirror import is_off

    task = stage.task_name
    if is_off():
        print(f"{stage.name}  not registered: tracking is off; later: hallmark register {task}", flush=True)
        return
    from pipeline.tracking.registry import register_task

    try:
        print(f"{stage.name}  {register_task(task, saved=saved, key=stage.key)}", flush=True)
    except HallmarkError as error:
        print(f"hallmark: {stage.name}: {error}\n  later: hallmark register {task}", file=sys.stderr)


if __name__ == "__main__":
    run_stage(main, f"register@{sys.argv[1]}")
