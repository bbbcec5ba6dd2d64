"""Dialogues measured: counts of every answer token, baselines, written answers, and the page that shows them."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.common.dialogues import ASSISTANT, USER, Message, messages_from_json, messages_to_json
from pipeline.common.errors import HallmarkError
from pipeline.common.params import Evaluate, Task
from pipeline.evaluation.dialogue import answer_figures, evaluate_dialogue, unigram_counts, write_answers
from pipeline.evaluation.kinds import EVALUATIONS
from pipeline.evaluation.report.dialogue_page import DIALOGUE, dialogue_findings
from pipeline.evaluation.report.findings import bars, result_rows, verdicts
from pipeline.tasks.assistant import Assistant, Row, fit_dialogues
from pipeline.tokenization.tokenizer import Tokenizer
from tests.tasks.test_dialogue import make_config, make_rows, random_model
from tests.tasks.test_dialogue import tokenizer as tokenizer

SETTINGS = {"max_tokens": 56, "precision": "float32", "answer_tokens": 6}


@pytest.fixture(scope="module")
def assistants(tokenizer: Tokenizer) -> tuple[Assistant, Assistant]:
    model, scratch = random_model(make_config(tokenizer)), random_model(make_config(tokenizer))
    torch.nn.init.zeros_(next(scratch.parameters()))
    return Assistant(model, tokenizer, SETTINGS), Assistant(scratch, tokenizer, SETTINGS)


def test_figures_are_those_of_the_rows_and_the_page_shows_them(assistants: tuple[Assistant, Assistant]) -> None:
    rows = make_rows()
    long = messages_to_json([Message(USER, "long " * 60), Message(ASSISTANT, "yes")])
    rows = pd.concat([rows, rows.tail(1).assign(id="long", messages=long)], ignore_index=True)
    task, settings = Task(kind="dialogue", labels_per_class=4), Evaluate(bootstrap_samples=50)
    found = evaluate_dialogue(rows, "chat.parquet", *assistants, task=task, settings=settings, seed=1)
    metrics, predictions = found.metrics, found.predictions
    assert (metrics["train_rows"], metrics["test_rows"], metrics["test_rows_too_long"]) == (4, 8, 1)
    tokens = predictions["tokens"].sum()
    for prefix, figures in (("", metrics), *((f"{name}_", row) for name, row in metrics["baselines"].items())):
        assert figures["token_accuracy"]["value"] == pytest.approx(predictions[f"{prefix}right"].sum() / tokens)
        assert figures["perplexity"]["value"] == pytest.approx(math.exp(predictions[f"{prefix}nats"].sum() / tokens))
        assert figures["perplexity"]["low"] <= figures["perplexity"]["value"] <= figures["perplexity"]["high"]
    scratch = metrics["baselines"]["scratch"]
    lead = metrics["token_accuracy"]["value"] - scratch["token_accuracy"]["value"]
    assert scratch["lead_token_accuracy"]["value"] == pytest.approx(lead)
    assert metrics["bits_per_byte"]["value"] > 0
    assert metrics["answers_written"] == 8
    assert predictions["answer"].str.startswith("It is ").all()
    assert EVALUATIONS["dialogue"].headline(metrics).startswith("token accuracy 0.")

    assert len(verdicts(metrics, 0.95, DIALOGUE)) == 2
    assert [row["name"] for row in result_rows(metrics, DIALOGUE)][2] == "unigram of the answers"
    assert len(bars(metrics, "perplexity", DIALOGUE)) == 3
    shown = dialogue_findings(predictions.assign(predicted=["wrong", *predictions["answer"][1:]]), rows, {})["mistakes"]
    assert [(each["id"], each["predicted"]) for each in shown] == [("test-0", "wrong")]
    assert shown[0]["text"] == "user: 0. What is grass?"
    assert shown[0]["label"] == "It is green."


def test_the_unigram_counts_answers_and_nothing_else(tokenizer: Tokenizer) -> None:
    learned = [Row([1, 50, 60, 60, 2], [False, False, True, True, True])]
    test = [Row([1, 50, 60, 61, 2], [False, False, True, True, True])]
    [counts] = unigram_counts(learned, test, tokenizer)
    total = tokenizer.vocab_size + 3
    nats = -math.log(3 / total) - math.log(1 / total) - math.log(2 / total)
    assert counts[:3] == pytest.approx([nats, 3, 1])
    assert counts[4] == tokenizer.token_bytes[[60, 61]].sum()


def test_without_room_for_any_answer_the_setting_is_named(assistants: tuple[Assistant, Assistant]) -> None:
    model = assistants[0]
    long, short = (
        [Message(USER, "long " * 60), Message(ASSISTANT, "yes")],
        messages_from_json(make_rows()["messages"][0]),
    )
    assert write_answers(model, [long, short], "chat.parquet")[0] is None
    with pytest.raises(HallmarkError, match="not one test dialogue leaves room for an answer of 6 tokens"):
        write_answers(model, [long], "chat.parquet")


def test_an_imperfect_tokenizer_has_no_bits_per_byte(assistants: tuple[Assistant, Assistant]) -> None:
    [row] = fit_dialogues(assistants[0].template, [messages_from_json(make_rows()["messages"][0])], 56).kept
    counts = assistants[0].predict_tokens([row])
    assert "bits_per_byte" in answer_figures(counts)
    assert "bits_per_byte" not in answer_figures(counts * np.array([1, 1, 1, 0, 0]))
