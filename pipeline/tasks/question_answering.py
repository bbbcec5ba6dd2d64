"""Extractive question answering: data, network, loss, decoding, and the trained answerer.

A linear head scores each token of a context as the first and as the last of the answer, and one token of the row as "no
answer here" (Devlin et al. 2019, section 4.3). Contexts longer than the network sees are read in overlapping windows.

Legend: N questions, B rows of a batch, T positions, V visible tokens of a context.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from pipeline.common.answers import Answer, answers_from_json
from pipeline.common.errors import HallmarkError
from pipeline.common.params import Finetune, Task
from pipeline.model.config import ModelConfig
from pipeline.model.transformer import Transformer
from pipeline.model.weights import load_weights
from pipeline.tasks.answer_metrics import (
    ANSWERABLE,
    FIGURES,
    UNANSWERABLE,
    answer_figures,
    are_unspaced,
    best_threshold,
    score_all,
)
from pipeline.tasks.batches import Batch, LengthBuckets, bucket_lengths, pad_rows
from pipeline.tasks.hiding import find_hidden_id, hide_tokens
from pipeline.tasks.question_windows import LEAST_TOKENS, AskedTexts, answer_tokens, best_span
from pipeline.tasks.rows import draw_labels, of_split, validation_rows
from pipeline.tasks.tagging import words_stay_whole
from pipeline.tasks.text_windows import is_causal, refuse_window
from pipeline.tasks.trained import MEASURED_ROWS, Trained, read_trained, token_vectors
from pipeline.tokenization.tokenizer import Tokenizer

KIND = "question_answering"


class FoundAnswer(NamedTuple):
    """What a model says to a question.

    Attributes:
        answer: None: the context does not hold one.
        score: of an answer the probability of its first times that of its last token, among all of its window and "no
            answer here"; of None the smallest probability of no answer in any window.
    """

    answer: Answer | None
    score: float


class Rules(NamedTuple):
    """What an answer may be like; learned from the training questions and kept with the model.

    Attributes:
        max_answer_tokens: visible tokens at most.
        whole_words: whether it begins and ends between words.
        unanswerable: whether a question may stay without an answer.
        threshold: if so, by how much an answer's sum of scores has to be above that of "no answer here"; chosen on
            validation. SQuAD's null score difference has the other sign.
    """

    max_answer_tokens: int
    whole_words: bool
    unanswerable: bool
    threshold: float = 0.0

    @classmethod
    def of(cls, task: dict[str, Any]) -> "Rules":
        """Those in "task" of a config."""
        return cls(**{name: task[name] for name in cls._fields if name in task})


class QuestionAnswerer(nn.Module):
    """A language model's body and a linear head on every token vector: the scores of beginning and end.

    Args:
        config: of the body; what predicts tokens is left out, and so is the decoder behind an encoder.
        sep_id: the token between question and context: what follows the first one is of segment 1, in networks with
            segments.
        dropout: on the token vectors.
    """

    def __init__(self, config: ModelConfig, sep_id: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = Transformer(config, heads=False)
        self.sep_id = sep_id
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(config.hidden_size, 2)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, ids_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Token ids (int64, padded on the right) and their counts to logits (B, T, 2), float32."""
        x_BTD = token_vectors(self.body, ids_BT, lengths_B, self.sep_id)
        with torch.autocast(x_BTD.device.type, enabled=False):
            return self.head(self.dropout(x_BTD.float()))


def place_nats(logits_BT2: Tensor, batch: Batch, label_smoothing: float = 0.0) -> Tensor:
    """The cross-entropy of the true beginning and end of each row, their mean, in nats (B,); 0 for empty rows.

    Both are chosen among the places that "choices" allows. Smoothing spreads its share evenly over these.

    Args:
        logits_BT2: of beginning and end.
        batch: "lengths" (B,), "choices" bool (B, T), and the places "starts" and "ends" int64 (B,).
    """
    choices_BT1 = batch["choices"][..., None]
    targets_B2 = torch.stack([batch["starts"], batch["ends"]], dim=1)
    places_T1 = torch.arange(logits_BT2.size(1), device=logits_BT2.device)[:, None]
    wanted_BT2 = (1 - label_smoothing) * (places_T1 == targets_B2[:, None]).float()
    wanted_BT2 = wanted_BT2 + label_smoothing * choices_BT1 / choices_BT1.sum(dim=1, keepdim=True)
    nats_BT2 = -logits_BT2.masked_fill(~choices_BT1, -torch.inf).log_softmax(dim=1)
    nats_B = (wanted_BT2 * nats_BT2.masked_fill(~choices_BT1, 0.0)).sum(dim=1).mean(dim=1)
    return nats_B.masked_fill(batch["lengths"] == 0, 0.0)


def find_answers(asked: AskedTexts, logits: Iterable[tuple[Sequence[int], Tensor]], rules: Rules) -> list[FoundAnswer]:
    """The answer to each question.

    In every window the best span is the one whose first and last token have the largest sum of scores. The best of all
    windows is the one that is furthest above "no answer here" of its own window, since scores of different windows
    have no common zero. It is the answer if it is above that by more than the threshold, or if no question may stay
    without one.

    Args:
        asked: questions and contexts.
        logits: the network's scores (B, T, 2), batch by batch, with the numbers of their windows; behind them padding.
        rules: what an answer may be like.
    """
    return [
        FoundAnswer(None, each.nothing)
        if each.answer is None or (rules.unanswerable and each.lead <= rules.threshold)
        else FoundAnswer(each.answer, each.score)
        for each in best_windows(asked, logits, rules)
    ]


class WindowAnswer(NamedTuple):
    """What a window says.

    Attributes:
        nothing: the probability of no answer.
        lead: by how much the sum of scores of the best answer is above that of no answer.
        answer: None: there is nothing visible to answer with.
        score: its probability.
    """

    nothing: float
    lead: float
    answer: Answer | None
    score: float


def best_windows(asked: AskedTexts, logits: Iterable[tuple[Sequence[int], Tensor]], rules: Rules) -> list[WindowAnswer]:
    """For each question what its best window says, with the smallest probability of no answer in any of its windows."""
    best = [WindowAnswer(1.0, -np.inf, None, 0.0) for _ in asked.questions]
    for windows, logits_BT2 in logits:
        for window, scores_T2 in zip(windows, logits_BT2.double().cpu().numpy(), strict=False):
            found, number = read_window(asked, window, scores_T2, rules), asked.windows[window].question
            nothing = min(best[number].nothing, found.nothing)
            best[number] = max(best[number], found, key=lambda each: each.lead)._replace(nothing=nothing)
    return best


def read_window(asked: AskedTexts, window: int, scores_T2: np.ndarray, rules: Rules) -> WindowAnswer:
    """The best answer in one window, given the scores of its places as beginning and end, float64."""
    number, (own, places) = asked.windows[window].question, asked.visible(window)
    nowhere, scores_V2 = scores_T2[asked.no_answer_place(window)], scores_T2[places]
    total = float(np.logaddexp.reduce(np.vstack([nowhere, scores_V2]), axis=0).sum())
    nothing = float(np.exp(nowhere.sum() - total))
    joined_V = asked.contexts[number].joined(rules.whole_words)
    starts_V = np.where(joined_V[own], -np.inf, scores_V2[:, 0])
    ends_V = np.where(np.append(joined_V[1:], False)[own], -np.inf, scores_V2[:, 1])
    span = best_span(starts_V, ends_V, rules.max_answer_tokens)
    if span is None:
        return WindowAnswer(nothing, -np.inf, None, 0.0)
    scores, (first, last) = span
    answer = asked.answer(number, own.start + first, own.start + last)
    return WindowAnswer(nothing, scores - float(nowhere.sum()), answer, float(np.exp(scores - total)))


class QuestionAnswering:
    """One task of questions, ready to be trained: see `pipeline.tasks.kinds.FinetuneTask`.

    Args:
        rows: the task's table, see `pipeline.tasks.rows.read_rows`.
        where: the file they come from, for messages.
        tokenizer: the model's own.
        task: settings of this task; `labels_per_class` draws so many questions with an answer, and as many without.
        settings: settings of fine-tuning; `max_tokens` is the length of a window with its question.
        config: of the body.
        seed: decides which questions are drawn, and the order of the batches.

    Raises:
        HallmarkError: a split without rows, or no answer to learn.
    """

    def __init__(
        self,
        rows: pd.DataFrame,
        where: str,
        tokenizer: Tokenizer,
        task: Task,
        settings: Finetune,
        config: ModelConfig,
        seed: int,
    ) -> None:
        refuse_window(settings.max_tokens, LEAST_TOKENS, config)
        drawn, short = draw_questions(of_split(rows, "train", where), task.labels_per_class, seed)
        held_out = validation_rows(rows, where, settings.validation_texts, seed)
        learned, self.truth = (read_answers(table) for table in (drawn, held_out))
        if not any(learned):
            raise HallmarkError("no training question has an answer: there is nothing to learn", where=where)
        self.tokenizer, self.settings, self.body_config, self.seed = tokenizer, settings, config, seed
        self.buckets = bucket_lengths(settings.max_tokens)
        self.hidden_id = find_hidden_id(tokenizer)
        self.learned, self.measured = (self._ask(table) for table in (drawn, held_out))
        tokens = first_answers(self.learned, learned)
        self.train = self._batches(self.learned, tokens, drawn["id"].tolist(), settings.batch_size)
        self.validation = self._batches(
            self.measured, first_answers(self.measured, self.truth), held_out["id"].tolist(), MEASURED_ROWS
        )
        rules = Rules(
            max_answer_tokens=max((last - first + 1 for first, last in filter(None, tokens)), default=1),
            whole_words=words_stay_whole(
                (text, answer.start, answer.end)
                for text, some in zip(drawn["text"], learned, strict=True)
                for answer in some
            ),
            unanswerable=not all(learned),
        )
        unspaced = are_unspaced(learned)
        self.best_metric = "character_f1" if unspaced else "f1"
        self.config: dict[str, Any] = {
            "kind": KIND,
            "max_tokens": settings.max_tokens,
            "unspaced": unspaced,
            **rules._asdict(),
        }
        self.facts = {
            "train_texts": len(drawn),
            "train_texts_without_an_answer": sum(not some for some in learned),
            "train_windows": len(self.learned.windows),
            "train_questions_cut": self.learned.questions_cut,
            "train_answers_that_no_tokens_are": count_lost(self.learned, tokens, learned),
            "train_answers_that_no_window_holds": count_cut(self.learned, tokens),
            "longest_answer_in_tokens": rules.max_answer_tokens,
            "words_stay_whole": rules.whole_words,
            "validation_texts": len(held_out),
            "classes_with_too_few_texts": short,
        }

    @property
    def rules(self) -> Rules:
        return Rules.of(self.config)

    def _ask(self, table: pd.DataFrame) -> AskedTexts:
        questions, contexts = table["pair"].tolist(), table["text"].tolist()
        return AskedTexts(questions, contexts, self.tokenizer, self.settings.max_tokens, is_causal(self.body_config))

    def _batches(
        self,
        asked: AskedTexts,
        tokens: Sequence[tuple[int, int] | None],
        names: Sequence[str],
        batch_size: int,
    ) -> LengthBuckets:
        """Batches of windows: "input_ids" (B, T), "lengths" (B,), "context" bool (B, T): visible tokens of the context,
        and what `place_nats` takes."""

        def collate(numbers: np.ndarray, length: int) -> Batch:
            rows = [asked.row(number) for number in numbers]
            ids_BT, lengths_B = pad_rows(rows, batch_size, length, self.tokenizer.pad_id)
            context_BT = torch.zeros(batch_size, length, dtype=torch.bool)
            nowhere_B, targets_B2 = torch.zeros(batch_size, dtype=torch.int64), torch.zeros(batch_size, 2).long()
            for row, window in enumerate(numbers.tolist()):
                context_BT[row, torch.from_numpy(asked.visible(window)[1])] = True
                nowhere_B[row] = asked.no_answer_place(window)
                targets_B2[row] = torch.tensor(asked.targets(window, tokens[asked.windows[window].question]))
            return {
                "input_ids": ids_BT,
                "lengths": lengths_B,
                "context": context_BT,
                "choices": context_BT.scatter(1, nowhere_B[:, None], True),
                "starts": targets_B2[:, 0],
                "ends": targets_B2[:, 1],
            }

        of_windows = [names[window.question] for window in asked.windows]
        return LengthBuckets(asked.lengths, self.buckets, batch_size, collate, self.seed, of_windows)

    def model(self) -> QuestionAnswerer:
        return QuestionAnswerer(self.body_config, self.tokenizer.separator_id, self.settings.dropout)

    def batches(self) -> LengthBuckets:
        return self.train

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        ids_BT = hide_tokens(batch["input_ids"], batch["context"], self.settings.token_dropout, self.hidden_id)
        nats_B = place_nats(model(ids_BT, batch["lengths"]), batch, self.settings.label_smoothing)
        return nats_B.sum(), (batch["lengths"] > 0).sum().float()

    def measure(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Validation loss (without smoothing), exact match and F1; in eval mode without gradients."""
        nats, answered = self._read_validation(model, device)
        found = find_answers(self.measured, answered, self.rules)
        figures = answer_figures(score_all([each.answer for each in found], self.truth).sum(axis=0))
        return {"loss": nats / len(self.measured.windows)} | {name: float(value) for name, value in figures.items()}

    def tune(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """The threshold with the best F1 on validation, if questions with and without an answer are there; else {}.

        Call in eval mode without gradients.
        """
        if not self.rules.unanswerable or all(self.truth) or not any(self.truth):
            return {}
        best = best_windows(self.measured, self._read_validation(model, device)[1], self.rules)
        figure = FIGURES.index(self.best_metric)
        answered_N = score_all([each.answer for each in best], self.truth)[:, figure]
        nothing_N = score_all([None] * len(best), self.truth)[:, figure]
        return {"threshold": best_threshold(np.array([each.lead for each in best]), answered_N, nothing_N)}

    def _read_validation(self, model: nn.Module, device: torch.device) -> tuple[float, list[tuple[list[int], Tensor]]]:
        """The summed loss over the windows of validation, and their scores."""
        nats = 0.0
        answered: list[tuple[list[int], Tensor]] = []
        for numbers, batch in self.validation.one_pass():
            moved = {name: value.to(device) for name, value in batch.items()}
            logits_BT2 = model(moved["input_ids"], moved["lengths"])
            nats += float(place_nats(logits_BT2, moved).sum())
            answered.append((numbers.tolist(), logits_BT2.cpu()))
        return nats, answered


def read_answers(rows: pd.DataFrame) -> list[list[Answer]]:
    return [answers_from_json(content) for content in rows["answers"]]


def draw_questions(rows: pd.DataFrame, per_kind: int | None, seed: int) -> tuple[pd.DataFrame, dict[str, int]]:
    """Draw the first `per_kind` questions with an answer, and as many without (None: all); see `draw_labels`."""
    kinds = [ANSWERABLE if answers else UNANSWERABLE for answers in read_answers(rows)]
    drawn, short = draw_labels(rows.assign(label=kinds), per_kind, seed)
    return drawn.drop(columns="label"), short


def first_answers(asked: AskedTexts, answers: Sequence[Sequence[Answer]]) -> list[tuple[int, int] | None]:
    """The tokens of the first answer to each question, which is the one to be learned; None where there is none."""
    return [
        answer_tokens(context, some[0]) if some else None for context, some in zip(asked.contexts, answers, strict=True)
    ]


def count_lost(asked: AskedTexts, tokens: Sequence[tuple[int, int] | None], answers: Sequence[Sequence[Answer]]) -> int:
    """How many answers their tokens do not give back, since a token reaches over their ends."""
    lost = 0
    for number, (own, some) in enumerate(zip(tokens, answers, strict=True)):
        lost += bool(some) and (own is None or asked.answer(number, *own).text != some[0].text.strip())
    return lost


def count_cut(asked: AskedTexts, tokens: Sequence[tuple[int, int] | None]) -> int:
    """How many answers are in no window from beginning to end."""
    held = {
        window.question
        for number, window in enumerate(asked.windows)
        if (own := tokens[window.question]) is not None and asked.has(number, own)
    }
    return sum(own is not None and number not in held for number, own in enumerate(tokens))


def load_answerer(folder: Path | str, device: str = "cpu") -> "Answerer":
    """Read a folder that `save_trained` wrote.

    Raises:
        HallmarkError: weights or tokenizer are not the ones that were saved, or the task is of another kind.
    """
    weights, config, tokenizer = read_trained(folder, KIND)
    model = QuestionAnswerer(ModelConfig.from_dict(config["model"]), tokenizer.separator_id)
    load_weights(model, weights)
    return Answerer(model.to(device).eval(), tokenizer, config["task"])


class Answerer(Trained):
    """A trained model that finds answers. Long contexts are read in windows; each window is a row."""

    model: QuestionAnswerer

    def __init__(self, model: QuestionAnswerer, tokenizer: Tokenizer, task: dict[str, Any]) -> None:
        super().__init__(model, tokenizer, task)
        self.rules = Rules.of(task)
        self.unspaced: bool = task["unspaced"]

    @torch.inference_mode()
    def predict(self, questions: Sequence[str], contexts: Sequence[str]) -> list[FoundAnswer]:
        """The answer to each question from its context."""
        causal = is_causal(self.model.body.config)
        asked = AskedTexts(questions, contexts, self.tokenizer, self.max_tokens, causal)
        rows = [asked.row(window) for window in range(len(asked.windows))]
        return find_answers(asked, self.logits(rows), self.rules)
