"""How each kind of task is served: what it is asked, what it answers, and when two answers are the same.

Free of MLflow, whose models the files `pyfunc_*.py` are.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

from pipeline.common.answers import Answer, answers_to_json
from pipeline.common.dialogues import ASSISTANT, ROLES, messages_from_json, through_last_answer
from pipeline.common.label_sets import labels_to_json
from pipeline.common.spans import Span, spans_to_json

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
        said: what an answer says, as "predicted" in predictions/TASK.parquet holds it.
        apart: by how much the probabilities or scores of a row of that table and of the same answer differ at most.
        inputs: what a request is.
        request: a row of the task's table (id, text, ...) as a request.
        pair_file: what MLflow runs where rows have a second text; None: this kind has none, or has one always.
        may_refuse: whether there are requests that a model of this kind cannot answer.
    """

    file: Path
    outputs: Callable[[list[str]], list[dict[str, Any]]]
    said: Callable[[Mapping[str, Any]], str]
    apart: Callable[[Mapping[str, Any], Mapping[str, Any]], float] = lambda row, answer: 0.0
    inputs: tuple[dict[str, Any], ...] = ({"type": "string"},)
    request: Callable[[Mapping[str, Any]], Any] = lambda row: row["text"]
    pair_file: Path | None = None
    may_refuse: bool = False

    def compare(self, row: Mapping[str, Any], answer: Mapping[str, Any]) -> Difference:
        """A row of predictions/TASK.parquet and the answer to the same request."""
        return Difference(row["predicted"] != self.said(answer), self.apart(row, answer))


def find_served(kind: str, pairs: bool = False) -> Served:
    """How a model of this kind is served: of texts, or of pairs of them."""
    served = SERVED[kind]
    if not pairs or served.pair_file is None:
        return served
    return replace(served, file=served.pair_file, inputs=PAIR_INPUTS, request=pair_request)


PAIR_INPUTS = ({"name": "text", "type": "string"}, {"name": "pair", "type": "string"})


def pair_request(row: Mapping[str, Any]) -> dict[str, str]:
    return {"text": row["text"], "pair": row["pair"]}


def labels_said(answer: Mapping[str, Any]) -> str:
    return labels_to_json(answer["labels"])


def spans_said(answer: Mapping[str, Any]) -> str:
    return spans_to_json(Span(span["start"], span["end"], span["label"]) for span in answer["spans"])


def answer_said(answer: Mapping[str, Any]) -> str:
    return answers_to_json([Answer(answer["start"], answer["answer"])] if answer["start"] is not None else [])


def probabilities_apart(row: Mapping[str, Any], answer: Mapping[str, Any]) -> float:
    return max(abs(row[f"p_{label}"] - value) for label, value in answer["probabilities"].items())


def span_scores_apart(row: Mapping[str, Any], answer: Mapping[str, Any]) -> float:
    scores = zip(row["scores"], answer["spans"], strict=False)  # other spans may be more or fewer
    return max((abs(score - span["score"]) for score, span in scores), default=0.0)


PROBABILITIES = {"name": "probabilities", "type": "map of label to number"}


def label_outputs(labels: list[str]) -> list[dict[str, Any]]:
    return [{"name": "label", "type": "string", "one_of": labels}, PROBABILITIES]


def labels_outputs(labels: list[str]) -> list[dict[str, Any]]:
    return [{"name": "labels", "type": "list", "of": {"type": "string", "one_of": labels}}, PROBABILITIES]


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


def text_outputs(labels: list[str]) -> list[dict[str, Any]]:
    return [{"name": "text", "type": "string"}]


def message_outputs(_labels: list[str]) -> list[dict[str, Any]]:
    return [{"name": "role", "type": "string", "one_of": [ASSISTANT]}, {"name": "content", "type": "string"}]


def dialogue_before_answer(row: Mapping[str, Any]) -> dict[str, Any]:
    """A dialogue without its last answer."""
    asked = through_last_answer(messages_from_json(row["messages"]))[:-1]
    return {"messages": [message._asdict() for message in asked]}


MESSAGE = [{"name": "role", "type": "string", "one_of": list(ROLES)}, {"name": "content", "type": "string"}]
SERVED: dict[str, Served] = {
    "classification": Served(
        HERE / "pyfunc_model.py",
        label_outputs,
        itemgetter("label"),
        probabilities_apart,
        pair_file=HERE / "pyfunc_pairs.py",
    ),
    "multi_label_classification": Served(
        HERE / "pyfunc_labels.py",
        labels_outputs,
        labels_said,
        probabilities_apart,
        pair_file=HERE / "pyfunc_pair_labels.py",
    ),
    "token_classification": Served(HERE / "pyfunc_spans.py", span_outputs, spans_said, span_scores_apart),
    "question_answering": Served(
        HERE / "pyfunc_answers.py",
        answer_outputs,
        answer_said,
        lambda row, answer: abs(row["score"] - answer["score"]),
        inputs=({"name": "question", "type": "string"}, {"name": "context", "type": "string"}),
        request=lambda row: {"question": row["pair"], "context": row["text"]},
    ),
    "sequence_to_sequence": Served(HERE / "pyfunc_texts.py", text_outputs, itemgetter("text")),
    "dialogue": Served(
        HERE / "pyfunc_dialogue.py",
        message_outputs,
        itemgetter("content"),
        inputs=({"name": "messages", "type": "list", "of": MESSAGE},),
        request=dialogue_before_answer,
        may_refuse=True,  # a last turn that leaves no room for an answer
    ),
}
