"""Stage `register@TASK`: the fine-tuned model as a package that proves itself, and a version in the registry."""

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.common.errors import HallmarkError
from pipeline.common.layout import FINETUNED, PREDICTIONS, REGISTERED, clean_task
from pipeline.stages.door import Stage, run_stage

if TYPE_CHECKING:
    import pandas as pd

COMPARED_ROWS = 512  # of the test split, evenly spread
EXAMPLES = 2
TOLERANCE = 1e-5  # of a probability: another batch may sum in another order


def main(stage: Stage) -> None:
    from pipeline.common.tables import read_table
    from pipeline.serving.package import write_package
    from pipeline.serving.reload import predict_in_fresh_process
    from pipeline.serving.save import save_pyfunc

    task = stage.task_name
    predictions = read_table(PREDICTIONS / f"{task}.parquet")
    predictions = predictions.iloc[:: -(-len(predictions) // COMPARED_ROWS)]
    texts = read_table(clean_task(task), columns=["id", "text"]).set_index("id")["text"]
    texts = [str(texts[name]) for name in predictions["id"]]

    package = write_package(FINETUNED / task, REGISTERED / task, [text[:200] for text in texts[:EXAMPLES]])
    saved = stage.scratch / "model"
    shutil.rmtree(saved, ignore_errors=True)
    save_pyfunc(package, saved)
    compare = COMPARISONS[stage.task.kind]
    answers = predict_in_fresh_process(saved, texts)
    difference = compare(predictions, answers, where=str(PREDICTIONS / f"{task}.parquet"))
    stage.announce(
        {
            "package_hash": package.hash,
            "reloaded": f"{len(texts)} test rows predicted alike by a fresh process; "
            f"largest difference of a probability {difference:.1e}",
        }
    )
    stage.write_metrics({"package_hash": package.hash, "rows_compared": len(texts)})
    register(stage, saved)
    shutil.rmtree(stage.scratch)


def compare_labels(predictions: "pd.DataFrame", answers: list[dict[str, Any]], where: str) -> float:
    """The largest difference between a probability of `evaluate` and of the reloaded model.

    Args:
        predictions: rows of predictions/TASK.parquet.
        answers: of the reloaded model to the same texts.
        where: names the file in the message.

    Raises:
        HallmarkError: another label for any row, or a difference above the tolerance.
    """
    labels = [answer["label"] for answer in answers]
    other = [name for name, a, b in zip(predictions["id"], predictions["predicted"], labels, strict=True) if a != b]
    largest = max(
        abs(row[f"p_{label}"] - value)
        for (_, row), answer in zip(predictions.iterrows(), answers, strict=True)
        for label, value in answer["probabilities"].items()
    )
    refuse_difference(other, len(labels), largest, where)
    return float(largest)


def compare_spans(predictions: "pd.DataFrame", answers: list[dict[str, Any]], where: str) -> float:
    """The largest difference between a span's score of `evaluate` and of the reloaded model.

    Args, raises: as `compare_labels`, with other spans for any row.
    """
    other, largest = [], 0.0
    for row, answer in zip(predictions.to_dict("records"), answers, strict=True):
        found = [{name: span[name] for name in ("start", "end", "label")} for span in answer["spans"]]
        if found != json.loads(row["predicted"]):
            other.append(row["id"])
            continue
        scores = [span["score"] for span in answer["spans"]]
        largest = max([largest, *(abs(a - b) for a, b in zip(row["scores"], scores, strict=True))])
    refuse_difference(other, len(answers), largest, where)
    return float(largest)


def refuse_difference(other: list[Any], rows: int, largest: float, where: str) -> None:
    """Raise a `HallmarkError` if there are `other` rows, or a probability differs by more than the tolerance."""
    if not other and largest <= TOLERANCE:
        return
    first = f"; first: {', '.join(map(str, other[:5]))}" if other else ""
    raise HallmarkError(
        f"the reloaded model does not predict what `evaluate` predicted: {len(other)} of {rows} labels "
        f"differ, probabilities by up to {largest:.1e}{first}",
        where=where,
        fix="were they made on another machine or device? then: dvc repro --force-downstream evaluate@TASK",
    )


COMPARISONS = {"classification": compare_labels, "token_classification": compare_spans}


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
