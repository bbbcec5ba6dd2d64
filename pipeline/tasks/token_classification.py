"""Labelled spans in a text (entities, roles, parts of speech): data, network, loss, decoding, and the trained labeller.

A linear head scores the tags of each token; Viterbi's algorithm finds the best valid tags of a whole text, and they are
its spans. Texts longer than the network sees are read in overlapping windows.

Legend: N texts, W windows, B rows of a batch, T positions, D hidden size, C labels, K = 1 + 2C tags, V visible tokens.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline.common.params import Finetune, Task
from pipeline.common.spans import Span, spans_from_json
from pipeline.model.config import ModelConfig
from pipeline.model.transformer import Transformer
from pipeline.model.weights import load_weights
from pipeline.tasks.batches import Batch, LengthBuckets, bucket_lengths, pad_rows
from pipeline.tasks.hiding import find_hidden_id, hide_tokens
from pipeline.tasks.rows import draw_by_labels, in_drawn_order, labels_of_training, of_split, validation_rows
from pipeline.tasks.span_metrics import count_spans, span_figures
from pipeline.tasks.tagging import AlignedText, best_tags, encode_texts, spans_of_tags, tag_tokens, words_stay_whole
from pipeline.tasks.text_windows import Window, cut_windows, is_causal, refuse_window
from pipeline.tasks.trained import MEASURED_ROWS, Trained, read_trained, token_vectors
from pipeline.tokenization.tokenizer import Tokenizer

KIND = "token_classification"
LEAST_TOKENS = 8  # of a window
NO_TAG = -100  # of positions that do not count


class ScoredSpan(NamedTuple):
    """A predicted span, and the mean probability of the tags of its tokens."""

    span: Span
    score: float


class TokenClassifier(nn.Module):
    """A language model's body and a linear head on every token vector.

    Args:
        config: of the body; what predicts tokens is left out, and so is the decoder behind an encoder.
        tags: K.
        dropout: on the token vectors.
    """

    def __init__(self, config: ModelConfig, tags: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = Transformer(config, heads=False)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(config.hidden_size, tags)
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def forward(self, ids_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """Token ids (int64, padded on the right) and their counts to logits_BTK, float32."""
        x_BTD = token_vectors(self.body, ids_BT, lengths_B)
        with torch.autocast(x_BTD.device.type, enabled=False):
            return self.head(self.dropout(x_BTD.float()))


def token_loss(model: nn.Module, batch: Batch, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """The summed cross-entropy of the positions that have a tag, in nats, and their number, both scalars."""
    logits_BTK = model(batch["input_ids"], batch["lengths"])
    return tag_nats(logits_BTK, batch["tags"], label_smoothing), (batch["tags"] != NO_TAG).sum().float()


def tag_nats(logits_BTK: Tensor, tags_BT: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """The summed cross-entropy of the positions that have a tag, a scalar."""
    logits, tags = logits_BTK.flatten(0, 1), tags_BT.flatten()
    return cross_entropy(logits, tags, ignore_index=NO_TAG, reduction="sum", label_smoothing=label_smoothing)


class WindowedTexts:
    """The windows of texts, as rows of [bos] + tokens.

    Args:
        texts: aligned.
        max_tokens: of a row.
        causal: whether the network sees only what stands before a token.
        bos_id: begins every row.
    """

    def __init__(self, texts: Sequence[AlignedText], max_tokens: int, causal: bool, bos_id: int) -> None:
        self.texts = texts
        self.windows: list[tuple[int, Window]] = [
            (number, window)
            for number, text in enumerate(texts)
            for window in cut_windows(len(text.ids), max_tokens - 1, causal)
        ]
        self.rows = [[bos_id, *texts[number].ids[window.start : window.stop]] for number, window in self.windows]
        self.lengths = np.array([len(row) for row in self.rows], dtype=np.int64)

    def visible(self, row: int) -> tuple[int, np.ndarray, np.ndarray]:
        """The text of a row, its visible tokens that are taken from this row, and their places in the row."""
        number, window = self.windows[row]
        places_V = self.texts[number].places_V
        taken = np.flatnonzero((places_V >= window.first) & (places_V < window.last))
        return number, taken, places_V[taken] - window.start + 1  # behind `bos`


class TokenClassification:
    """One task of labelled spans, ready to be trained: see `pipeline.tasks.kinds.FinetuneTask`.

    Args:
        rows: the task's table, see `pipeline.tasks.rows.read_rows`.
        where: the file they come from, for messages.
        tokenizer: the model's own.
        task: settings of this task.
        settings: settings of fine-tuning; `max_tokens` is the length of a window.
        config: of the body.
        seed: decides which labels are drawn, and the order of the batches.

    Raises:
        HallmarkError: a split without rows, no span to learn, or a label that training has no span of.
    """

    best_metric = "micro_f1"

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
        drawn, short = draw_texts(of_split(rows, "train", where), task.labels_per_class, seed)
        held_out = validation_rows(rows, where, settings.validation_texts, seed)
        self.labels = known_span_labels(rows, where)
        self.tokenizer, self.settings, self.body_config, self.seed = tokenizer, settings, config, seed
        self.buckets = bucket_lengths(settings.max_tokens)
        learned, self.truth = (read_spans(table) for table in (drawn, held_out))
        self.whole_words = words_stay_whole(
            (text, span.start, span.end) for text, own in zip(drawn["text"], learned, strict=True) for span in own
        )
        self.hidden_id = find_hidden_id(tokenizer)
        windows = (settings.max_tokens, is_causal(config), tokenizer.bos_id)
        self.learned = WindowedTexts(encode_texts(drawn["text"].tolist(), tokenizer), *windows)
        self.measured = WindowedTexts(encode_texts(held_out["text"].tolist(), tokenizer), *windows)
        tags = [self._tags(self.learned, learned), self._tags(self.measured, self.truth)]
        self.train = self._batches(self.learned, tags[0], drawn["id"].tolist(), settings.batch_size)
        self.validation = self._batches(self.measured, tags[1], held_out["id"].tolist(), MEASURED_ROWS)
        self.config = {
            "kind": KIND,
            "labels": self.labels,
            "max_tokens": settings.max_tokens,
            "whole_words": self.whole_words,
        }
        self.facts = {
            "labels": len(self.labels),
            "train_texts": len(drawn),
            "train_texts_in_windows": sum(len(text.ids) >= settings.max_tokens for text in self.learned.texts),
            "train_spans": sum(map(len, learned)),
            "train_spans_that_no_tokens_are": count_lost(self.learned.texts, learned, tags[0], self.labels),
            "words_stay_whole": self.whole_words,
            "validation_texts": len(held_out),
            "classes_with_too_few_texts": short,
        }

    def model(self) -> TokenClassifier:
        return TokenClassifier(self.body_config, 1 + 2 * len(self.labels), self.settings.dropout)

    def batches(self) -> LengthBuckets:
        return self.train

    def _tags(self, windowed: WindowedTexts, spans: Sequence[Sequence[Span]]) -> list[np.ndarray]:
        return [tag_tokens(text, own, self.labels) for text, own in zip(windowed.texts, spans, strict=True)]

    def _batches(
        self, windowed: WindowedTexts, tags: Sequence[np.ndarray], names: Sequence[str], batch_size: int
    ) -> LengthBuckets:
        def collate(numbers: np.ndarray, length: int) -> Batch:
            ids_BT, lengths_B = pad_rows([windowed.rows[n] for n in numbers], batch_size, length, self.tokenizer.pad_id)
            tags_BT = torch.full((batch_size, length), NO_TAG, dtype=torch.int64)
            for row, number in enumerate(numbers):
                text, taken, places = windowed.visible(int(number))
                tags_BT[row, torch.from_numpy(places)] = torch.from_numpy(tags[text][taken])
            return {"input_ids": ids_BT, "lengths": lengths_B, "tags": tags_BT}

        of_windows = [names[number] for number, _ in windowed.windows]
        return LengthBuckets(windowed.lengths, self.buckets, batch_size, collate, self.seed, of_windows)

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        ids_BT = hide_tokens(batch["input_ids"], batch["tags"] != NO_TAG, self.settings.token_dropout, self.hidden_id)
        return token_loss(model, batch | {"input_ids": ids_BT}, self.settings.label_smoothing)

    def measure(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Validation loss (without smoothing), micro- and macro-F1 of the spans; in eval mode without gradients."""
        nats, tokens = 0.0, 0
        scores = [np.zeros((len(text.places_V), 1 + 2 * len(self.labels))) for text in self.measured.texts]
        for numbers, batch in self.validation.one_pass():
            moved = {name: value.to(device) for name, value in batch.items()}
            logits_BTK = model(moved["input_ids"], moved["lengths"])
            nats += float(tag_nats(logits_BTK, moved["tags"]))
            tokens += int((moved["tags"] != NO_TAG).sum())
            log_BTK = logits_BTK.log_softmax(dim=-1).cpu().numpy()
            for row, number in enumerate(numbers):
                text, taken, places = self.measured.visible(int(number))
                scores[text][taken] = log_BTK[row, places]
        predicted = [
            [found.span for found in decode(text, of_text, self.labels, self.whole_words)]
            for text, of_text in zip(self.measured.texts, scores, strict=True)
        ]
        figures = span_figures(count_spans(self.truth, predicted, self.labels).sum(axis=0))
        return {
            "loss": nats / max(tokens, 1),
            "micro_f1": float(figures["micro_f1"]),
            "macro_f1": float(figures["macro_f1"]),
        }


def read_spans(rows: pd.DataFrame) -> list[list[Span]]:
    """The true spans of each row."""
    return [spans_from_json(content) for content in rows["spans"]]


def known_span_labels(rows: pd.DataFrame, where: str) -> list[str]:
    """The labels that training knows, sorted. Raises HallmarkError: see `pipeline.tasks.rows.labels_of_training`."""
    labels = [[span.label for span in spans] for spans in read_spans(rows)]
    return labels_of_training(rows, labels, where, learned="span", owner="span")


def draw_texts(rows: pd.DataFrame, texts_per_label: int | None, seed: int) -> tuple[pd.DataFrame, dict[str, int]]:
    """Draw the first `texts_per_label` texts that have a label, for each label, and as many without any (None: all).

    See `pipeline.tasks.rows.draw_by_labels`.
    """
    drawn = in_drawn_order(rows, seed)
    labels = [{span.label for span in spans} for spans in read_spans(drawn)]
    return draw_by_labels(drawn, labels, texts_per_label)


def count_lost(
    texts: Sequence[AlignedText],
    spans: Sequence[Sequence[Span]],
    tags: Sequence[np.ndarray],
    labels: Sequence[str],
) -> int:
    """How many spans their tags do not give back, since a token reaches over their ends."""
    lost = 0
    for text, own, tags_V in zip(texts, spans, tags, strict=True):
        lost += len(set(own) - {span for span, _ in spans_of_tags(text, tags_V, labels)})
    return lost


def decode(text: AlignedText, scores_VK: np.ndarray, labels: Sequence[str], whole_words: bool) -> list[ScoredSpan]:
    """The spans of the best valid tags, given log-probabilities of the tags of the visible tokens."""
    tags_V = best_tags(scores_VK, text.joined(whole_words))
    probabilities_V = np.exp(scores_VK[np.arange(len(tags_V)), tags_V])
    return [ScoredSpan(span, float(probabilities_V[own].mean())) for span, own in spans_of_tags(text, tags_V, labels)]


def load_token_labeller(folder: Path | str, device: str = "cpu") -> "TokenLabeller":
    """Read a folder that `save_trained` wrote.

    Raises:
        HallmarkError: weights or tokenizer are not the ones that were saved, or the task is of another kind.
    """
    weights, config, tokenizer = read_trained(folder, KIND)
    task = config["task"]
    model = TokenClassifier(ModelConfig.from_dict(config["model"]), 1 + 2 * len(task["labels"]))
    load_weights(model, weights)
    return TokenLabeller(model.to(device).eval(), tokenizer, task)


class TokenLabeller(Trained):
    """A trained model that finds spans. Long texts are read in windows; each window is a row."""

    model: TokenClassifier

    def __init__(self, model: TokenClassifier, tokenizer: Tokenizer, task: dict[str, Any]) -> None:
        super().__init__(model, tokenizer, task)
        self.whole_words: bool = task["whole_words"]
        self.causal = is_causal(model.body.config)

    @torch.inference_mode()
    def predict_scored(self, texts: Sequence[str]) -> list[list[ScoredSpan]]:
        """The spans of each text in their order, each with its score. They never overlap."""
        aligned = encode_texts(texts, self.tokenizer)
        scores = [np.zeros((len(text.places_V), 1 + 2 * len(self.labels)), dtype=np.float32) for text in aligned]
        windowed = WindowedTexts(aligned, self.max_tokens, self.causal, self.tokenizer.bos_id)
        for some, logits_BTK in self.logits(windowed.rows):
            log_BTK = logits_BTK.log_softmax(dim=-1)[: len(some)].cpu().numpy()
            for row, log_TK in zip(some, log_BTK, strict=True):
                text, taken, places = windowed.visible(row)
                scores[text][taken] = log_TK[places]
        return [
            decode(text, of_text, self.labels, self.whole_words) for text, of_text in zip(aligned, scores, strict=True)
        ]

    def predict(self, texts: Sequence[str]) -> list[list[Span]]:
        """The spans of each text, without their scores."""
        return [[found.span for found in spans] for spans in self.predict_scored(texts)]
