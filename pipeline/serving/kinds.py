"""How each kind of task is served: what it is asked, what it answers, and when two answers are the same.

Free of MLflow, whose models the files `pyfunc_*.py` are.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Difference:
    """Between what `evaluate` predicted for a row and what a served model answers.

    Attributes:
        other: whether they say different things.
        probability: by how much a probability or score differs at most.
    """

    other: bool
    probability: float = 0.0


@dataclass(frozen=True)
class Served:
    """A kind of task, served.

    Attributes:
        file: what MLflow runs.
        outputs: given the labels, what an answer has; readable without any library.
        compare: a row of predictions/TASK.parquet and the answer to the same request.
        inputs: what a request is.
        request: a row of the task's table (id, text, ...) as a request.
    """

    file: Path
    outputs: Callable[[list[str]], list[dict[str, Any]]]
    compare: Callable[[Mapping[str, Any], Mapping[str, Any]], Difference]
    inputs: tuple[dict[str, Any], ...] = ({"type": "string"},)
    request: Callable[[Mapping[str, Any]], Any] = lambda row: row["text"]


def compare_labels(row: Mapping[str, Any], answer: Mapping[str, Any]) -> Difference:
    probabilities = answer["probabilities"].items()
    return Difference(
        row["predicted"] != answer["label"], max(abs(row[f"p_{label}"] - value) for label, value in probabilities)
    )


def compare_spans(row: Mapping[str, Any], answer: Mapping[str, Any]) -> Difference:
    spans = [{name: span[name] for name in ("start", "end", "label")} for span in answer["spans"]]
    if spans != json.loads(row["predicted"]):
        return Difference(other=True)
    scores = zip(row["scores"], answer["spans"], strict=True)
    return Difference(other=False, probability=max((abs(score - span["score"]) for score, span in scores), default=0.0))


def compare_answers(row: Mapping[str, Any], answer: Mapping[str, Any]) -> Difference:
    found = [{"start": answer["start"], "text": answer["answer"]}] if answer["start"] is not None else []
    return Difference(found != json.loads(row["predicted"]), abs(row["score"] - answer["score"]))


def class_outputs(labels: list[str]) -> list[dict[str, Any]]:
    return [
        {"name": "label", "type": "string", "one_of": labels},
        {"name": "probabilities", "type": "map of label to number"},
    ]


def span_outputs(labels: list[str]) -> list[dict[str, Any]]:
    span = [
        {"name": "start", "type": "integer"},
        {"name": "end", "type": "integer"},
        {"name": "label", "type": "string", "one_of": labels},
        {"name": "text", "type": "string"},
        {"name": "score", "type": "number"},
    ]
    return [{"name": "spans", "type": "list", "of": span}]


def answer_outputs(labels: list[str]) -> list[dict[str, Any]]:
    return [
        {"name": "answer", "type": "string"},
        {"name": "start", "type": "integer or null"},
        {"name": "end", "type": "integer or null"},
        {"name": "score", "type": "number"},
    ]


SERVED: dict[str, Served] = {
    "classification": Served(HERE / "pyfunc_model.py", class_outputs, compare_labels),
    "token_classification": Served(HERE / "pyfunc_spans.py", span_outputs, compare_spans),
    "question_answering": Served(
        HERE / "pyfunc_answers.py",
        answer_outputs,
        compare_answers,
        inputs=({"name": "question", "type": "string"}, {"name": "context", "type": "string"}),
        request=lambda row: {"question": row["pair"], "context": row["text"]},
    ),
}
