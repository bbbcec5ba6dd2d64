"""The page of answered questions: what became of them, and the worst mistakes."""

from typing import Any

import pandas as pd

from pipeline.common.answers import Answer, answers_from_json
from pipeline.evaluation.report.findings import SCRATCH, WORST, KindPage, Words
from pipeline.tasks.answer_metrics import ANSWERABLE, NO_ANSWER, OUTCOMES, UNANSWERABLE, outcomes, score

AROUND = 200  # characters of a context shown before and behind an answer
QUESTION_ANSWERING = Words(
    {"character_f1": "F1 of characters", "f1": "answer F1", "exact_match": "exact match"},
    {"scratch": SCRATCH, "nearby_words": "words near the question's words", "no_answer": "never an answer"},
    ("nearby_words", "nearby words", "the words of the context that stand nearest to the question's words"),
    "f1",
    "answered with",
)


def answer_findings(predictions: pd.DataFrame, rows: pd.DataFrame, config: dict[str, Any]) -> dict[str, Any]:
    truth = [answers_from_json(content) for content in predictions["answers"]]
    found = [next(iter(answers_from_json(content)), None) for content in predictions["predicted"]]
    return {"confusions": outcome_table(found, truth), "mistakes": worst_answers(predictions, rows, found, truth)}


def outcome_table(found: list[Answer | None], truth: list[list[Answer]]) -> dict[str, Any]:
    """How often what became of questions with an answer, and of those without: counts and shares of the row."""
    pairs = outcomes(found, truth)
    table = []
    for kind in (ANSWERABLE, UNANSWERABLE):
        own = [outcome for label, outcome in pairs if label == kind]
        if own:
            cells = [(own.count(outcome), own.count(outcome) / len(own)) for outcome in OUTCOMES]
            table.append({"label": kind, "cells": cells})
    return {"classes": list(OUTCOMES), "table": table, "pairs": []}


def worst_answers(
    predictions: pd.DataFrame, rows: pd.DataFrame, found: list[Answer | None], truth: list[list[Answer]]
) -> list[dict[str, Any]]:
    """The answers that share nothing with a true one and of which the model was surest, each in its place."""
    by_id = rows.set_index("id")
    wrong = []
    for name, sure, answer, right in zip(predictions["id"], predictions["score"], found, truth, strict=True):
        if score(answer.text if answer else "", [true.text for true in right])[2] == 0:
            wrong.append((-sure, name, answer, right))
    return [
        {
            "id": name,
            "label": right[0].text if right else NO_ANSWER,
            "predicted": answer.text if answer else NO_ANSWER,
            "certainty": f"with probability {-sure:.3f}",
            "text": f"{by_id['pair'][name].strip()}\n{around(by_id['text'][name], answer or right[0])}",
        }
        for sure, name, answer, right in sorted(wrong, key=lambda each: each[:2])[:WORST]
    ]


def around(text: str, answer: Answer) -> str:
    before, behind = text[max(0, answer.start - AROUND) : answer.start], text[answer.end : answer.end + AROUND]
    return f"{before}[{answer.text}]{behind}"


ANSWER_PAGE = KindPage(QUESTION_ANSWERING, answer_findings)
