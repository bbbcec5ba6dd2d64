"""A model of dialogues on the test split, beside its baselines.

Every answer of a test dialogue is predicted token by token, given what was truly said before it. The last answer of
some is also written freely.

Legend: N dialogues, S resamples, V vocabulary.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.common.dialogues import Message, messages_from_json, through_last_answer
from pipeline.common.errors import HallmarkError
from pipeline.common.params import Evaluate, Task
from pipeline.evaluation.evaluation import Evaluation
from pipeline.evaluation.intervals import interval
from pipeline.evaluation.resampling import beside_baselines, resampled_figures
from pipeline.tasks.assistant import COUNTS, Assistant, Row, count_tokens, fit_dialogues
from pipeline.tasks.metrics import Figures
from pipeline.tasks.rows import draw_rows, evenly, of_split
from pipeline.tokenization.tokenizer import Tokenizer

HEADLINES = ("token_accuracy", "perplexity")
ANSWERED = 64  # dialogues whose last answer is written, evenly spread over the test split: each takes seconds on a CPU


def evaluate_dialogue(
    rows: pd.DataFrame,
    where: str,
    model: Assistant,
    scratch: Assistant,
    *,
    task: Task,
    settings: Evaluate,
    seed: int,
) -> Evaluation:
    """Measure a model and its baselines, which all learned from the same drawn dialogues.

    Args:
        rows: the task's table.
        where: the file they come from, for messages.
        model: fine-tuned from pretrained weights.
        scratch: the same network, fine-tuned from random weights.

    Raises:
        HallmarkError: no test rows, or none that fits `finetune.max_tokens` with room for an answer.
    """
    drawn = draw_rows(of_split(rows, "train", where), task.labels_per_class, seed)
    test = of_split(rows, "test", where)
    fitted, learned = (fit_dialogues(model.template, _dialogues(table), model.max_tokens) for table in (test, drawn))
    fits = [row is not None for row in fitted.rows]
    dialogues = _dialogues(test[fits])
    predicted = write_answers(model, dialogues, where)
    counts = {
        "predicted": model.predict_tokens(fitted.kept),
        "scratch": scratch.predict_tokens(fitted.kept),
        "unigram": unigram_counts(learned.kept, fitted.kept, model.tokenizer),
    }
    truth = [messages[-1].content for messages in dialogues]
    predictions = pd.DataFrame({"id": test["id"].to_numpy()[fits], "answer": truth, "predicted": predicted})
    for name, found_NC in counts.items():
        prefix = "" if name == "predicted" else f"{name}_"
        predictions[f"{prefix}nats"], predictions[f"{prefix}right"] = found_NC[:, 0], found_NC[:, 2].astype(np.int64)
    predictions.insert(3, "tokens", counts["predicted"][:, 1].astype(np.int64))
    metrics: dict[str, Any] = {
        **beside_baselines(
            counts, answer_figures, HEADLINES, settings, seed, alone=("bits_per_byte",), leads=HEADLINES[:1]
        ),
        **_exact_matches(truth, predicted, settings, seed),
        "labels_per_class": task.labels_per_class,
        "train_rows": len(drawn),
        "test_rows": len(dialogues),
        "test_rows_cut": fitted.cut,
        "test_rows_too_long": fitted.too_long,
    }
    return Evaluation(metrics, predictions, pd.DataFrame({"label": [], "predicted": []}))


def answer_figures(counts_SC: np.ndarray) -> Figures:
    """Of sums of `COUNTS`: the share of answer tokens that are the likeliest, perplexity per token, and, unless no
    token stands for certain bytes, bits per byte of the answers' text. float64 (S,) each.
    """
    nats, tokens, right, text_nats, text_bytes = counts_SC.T
    figures = {"token_accuracy": right / tokens, "perplexity": np.exp(nats / tokens)}
    if (text_bytes > 0).all():
        figures["bits_per_byte"] = text_nats / math.log(2) / text_bytes
    return figures


def unigram_counts(learned: Sequence[Row], test: Sequence[Row], tokenizer: Tokenizer) -> np.ndarray:
    """What `Assistant.predict_tokens` counts, of a model that knows nothing but how often each token is in the answers
    learned: one more than its count over all, with one for every token of the vocabulary (Laplace).
    """
    counts_V = np.ones(tokenizer.vocab_size)
    for row in learned:
        np.add.at(counts_V, np.array(row.ids)[row.is_said], 1)
    nats_V, likeliest = -np.log(counts_V / counts_V.sum()), counts_V.argmax()
    target_bytes = tokenizer.token_bytes if tokenizer.is_lossless else None
    said = [np.array(row.ids)[row.is_said] for row in test]
    found = [count_tokens(nats_V[ids], ids == likeliest, ids, target_bytes) for ids in said]
    return np.array(found).reshape(-1, len(COUNTS))


def write_answers(model: Assistant, dialogues: Sequence[Sequence[Message]], where: str) -> list[str | None]:
    """The model's own last answer of some dialogues, None of the others."""
    asked = [messages[:-1] for messages in dialogues]
    able = [place for place, messages in enumerate(asked) if model.prompt(messages) is not None]
    if not able:
        raise HallmarkError(
            f"not one test dialogue leaves room for an answer of {model.answer_tokens} tokens",
            where=where,
            fix="raise finetune.max_tokens",
        )
    chosen = able[evenly(len(able), ANSWERED)]
    answers: list[str | None] = [None] * len(dialogues)
    for place, answer in zip(chosen, model.answer([asked[place] for place in chosen]), strict=True):
        answers[place] = answer
    return answers


def _exact_matches(
    truth: Sequence[str], predicted: Sequence[str | None], settings: Evaluate, seed: int
) -> dict[str, Any]:
    """How many of the written answers are the true ones, but for white space."""
    hits = [said.split() == true.split() for true, said in zip(truth, predicted, strict=True) if said is not None]
    counts = np.array([(hit, 1) for hit in hits])
    figures = resampled_figures(
        counts, lambda sums: {"exact_answers": sums[:, 0] / sums[:, 1]}, samples=settings.bootstrap_samples, seed=seed
    )
    return {
        "exact_answers": dict(interval(figures["exact_answers"], settings.confidence)),
        "answers_written": len(hits),
    }


def _dialogues(rows: pd.DataFrame) -> list[list[Message]]:
    return [through_last_answer(messages_from_json(content)) for content in rows["messages"]]
