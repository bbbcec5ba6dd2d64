"""Test rows of every kind of task, and right and wrong answers to them as served models give them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.common.answers import Answer, answers_to_json
from pipeline.common.dialogues import Message, messages_to_json
from pipeline.common.label_sets import labels_to_json
from pipeline.common.spans import Span, spans_to_json
from pipeline.common.tables import records

Right = Sequence[bool] | np.ndarray  # of each row, whether it is answered rightly
NAMES = ("Anna", "Zoë", "Li Wei", "Omar")


def make_rows(kind: str, count: int) -> pd.DataFrame:
    """So many test rows; of questions, two are about each text."""
    names = [NAMES[number % len(NAMES)] for number in range(count)]
    texts = [f"{name} was number {number // 2 * 2}" for number, name in enumerate(names)]
    if kind == "question_answering":
        texts = [f"{name} and Zoë were number {number // 2}" for number, name in enumerate(NAMES[0:1] * count)]
    columns = {
        "classification": {"label": names},
        "multi_label_classification": {"labels": [labels_to_json([name, "person"]) for name in names]},
        "token_classification": {"spans": [spans_to_json([Span(0, len(name), "person")]) for name in names]},
        "question_answering": {"answers": [answers_to_json([Answer(0, "Anna")]) for _ in names], "pair": "Who?"},
        "sequence_to_sequence": {"target": [f"{name} was here, and nobody else" for name in names]},
        "dialogue": {
            "messages": [
                messages_to_json([Message("user", f"{number}?"), Message("assistant", f"It was {name}, I think.")])
                for number, name in enumerate(names)
            ]
        },
    }[kind]
    rows = pd.DataFrame({"id": [f"t{number}" for number in range(count)], "text": texts, "split": "test", "group": "g"})
    return rows.assign(name=names, **columns)


def answer(kind: str, row: dict[str, Any], is_right: bool) -> dict[str, Any]:
    """What a served model answers; wrong answers are of the same kind, or none where that is possible."""
    name = row["name"]
    span = {"start": 0, "end": len(name), "label": "person", "text": name, "score": 0.5}
    right, wrong = {
        "classification": ({"label": name}, {"label": NAMES[NAMES.index(name) - 1]}),
        "multi_label_classification": ({"labels": [name, "person"]}, {"labels": ["person"]}),
        "token_classification": ({"spans": [span]}, {"spans": []}),
        "question_answering": ({"answer": "Anna", "start": 0}, {"answer": "", "start": None}),
        "sequence_to_sequence": ({"text": f"{name} was here, and nobody else"}, {"text": "Nothing, and nobody"}),
        "dialogue": ({"content": f"It was  {name}, I think."}, {"content": "No idea."}),
    }[kind]
    return right if is_right else wrong


def answer_all(kind: str, rows: pd.DataFrame, right: Right) -> list[dict[str, Any]]:
    return [answer(kind, row, is_right) for row, is_right in zip(records(rows), right, strict=True)]
