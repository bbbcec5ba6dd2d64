"""Instruction and dialogue tuning of a decoder: data, loss and figures. The network and what it answers are in
`assistant.py`.

Only what the assistant says is learned: the content and the end of each of its turns. Dialogues are packed into rows,
where none sees another and each begins at position 0.

Legend: B rows of a batch, T positions, D hidden size, N answer tokens, V vocabulary.
"""

import math
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from pipeline.common.dialogues import messages_from_json
from pipeline.common.errors import HallmarkError, Problems
from pipeline.common.params import Finetune, Task
from pipeline.model.config import ModelConfig
from pipeline.model.norms import widen
from pipeline.tasks.assistant import KIND, DialogueModel, Fitted, Row, fit_dialogues
from pipeline.tasks.batches import Batch, LengthBuckets
from pipeline.tasks.rows import draw_rows, of_split, validation_rows
from pipeline.tokenization.chat import ChatTemplate
from pipeline.tokenization.tokenizer import Tokenizer
from pipeline.training.cross_entropy import summed_nats
from pipeline.training.masking import NO_TARGET
from pipeline.training.objectives import states_and_labels
from pipeline.training.packing import best_fit


def answer_states(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """The states that predict what the assistant says, x_ND, and these tokens, labels_N."""
    x_BTD, labels_BT, _ = states_and_labels(model.body, batch)
    is_said_BT = labels_BT != NO_TARGET
    return x_BTD[is_said_BT], labels_BT[is_said_BT]


def dialogue_loss(model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
    """The summed cross-entropy of what the assistant says, in nats, and the number of its tokens, both scalars."""
    x_ND, labels_N = answer_states(model, batch)
    head = model.body.lm_head
    nats = summed_nats(head.features(x_ND), head.weight, head.bias, labels_N)
    return nats, torch.tensor(float(len(labels_N)), device=nats.device)


class PackedDialogues:
    """Rows of several whole dialogues.

    Args:
        rows: of the dialogues, each with T + 1 ids at most.
        length: T.
        pad_id: fills a row up.
    """

    def __init__(self, rows: list[Row], length: int, pad_id: int) -> None:
        self.rows, self.length, self.pad_id = rows, length, pad_id
        lengths = np.array([len(row.ids) - 1 for row in rows], dtype=np.int64)
        places = best_fit(lengths, length)  # of the longest first
        self.members: list[list[int]] = [[] for _ in range(int(places.max()) + 1)]
        for number, place in zip(np.argsort(-lengths, kind="stable").tolist(), places.tolist(), strict=True):
            self.members[place].append(number)

    def batches(self, batch_size: int, seed: int, names: list[str]) -> LengthBuckets:
        """Endless batches of {"input_ids", "labels", "documents"} (B, T), int64; labels are NO_TARGET where nothing is
        to be learned, documents count within a row.
        """

        def collate(numbers: np.ndarray, length: int) -> Batch:
            batch = {
                "input_ids": torch.full((batch_size, length), self.pad_id, dtype=torch.int64),
                "labels": torch.full((batch_size, length), NO_TARGET, dtype=torch.int64),
                "documents": torch.full((batch_size, length), len(self.rows), dtype=torch.int64),
            }
            for row, number in enumerate(numbers):
                self._fill({name: values[row] for name, values in batch.items()}, self.members[number])
            return batch

        lengths = np.full(len(self.members), self.length)
        of_rows = [", ".join(names[number] for number in members) for members in self.members]
        return LengthBuckets(lengths, np.array([self.length]), batch_size, collate, seed, of_rows)

    def _fill(self, row: dict[str, Tensor], members: list[int]) -> None:
        first = 0
        for document, number in enumerate(members):
            ids, is_said = (torch.tensor(values) for values in self.rows[number])
            last = first + len(ids) - 1
            row["input_ids"][first:last] = ids[:-1]
            row["labels"][first:last] = ids[1:].masked_fill(~is_said[1:], NO_TARGET)
            row["documents"][first:last] = document
            first = last


class Dialogue:
    """One task of dialogues, ready to be trained: see `pipeline.tasks.kinds.FinetuneTask`.

    Args:
        rows: the task's table, see `pipeline.tasks.rows.read_rows`.
        where: the file they come from, for messages.
        tokenizer: the model's own.
        task: settings of this task.
        settings: settings of fine-tuning; `max_tokens` is the length of a packed row, `batch_size` counts these.
        config: of the body.
        seed: decides which dialogues are drawn, and the order of the batches.

    Raises:
        HallmarkError: no decoder, settings that cannot be, a split without rows or without any that fits.
    """

    best_metric = "token_accuracy"

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
        refuse_settings(settings, config)
        drawn = draw_rows(of_split(rows, "train", where), task.labels_per_class, seed)
        held_out = validation_rows(rows, where, settings.validation_texts, seed)
        self.body_config = config
        template = ChatTemplate(tokenizer)
        fitted, measured = (fit_rows(template, table, settings.max_tokens, where) for table in (drawn, held_out))

        def pack(table: pd.DataFrame, of_table: Fitted) -> LengthBuckets:
            names = [name for name, row in zip(table["id"], of_table.rows, strict=True) if row]
            packed = PackedDialogues(of_table.kept, settings.max_tokens, tokenizer.pad_id)
            return packed.batches(settings.batch_size, seed, names)

        self.train, self.validation = pack(drawn, fitted), pack(held_out, measured)
        longest = max(map(longest_answer, fitted.kept))
        self.config = {
            "kind": KIND,
            "max_tokens": settings.max_tokens,
            "answer_tokens": min(longest, settings.max_tokens // 2),
            "chat_template": template.jinja,
        }
        self.facts = {
            "train_texts": len(drawn),
            "train_texts_cut": fitted.cut,
            "train_texts_too_long": fitted.too_long,
            "train_answer_tokens": sum(sum(row.is_said) for row in fitted.kept),
            "packed_rows": len(self.train.padded),
            "answer_tokens": self.config["answer_tokens"],
            "validation_texts": len(held_out),
            "validation_texts_cut": measured.cut,
            "validation_texts_too_long": measured.too_long,
        }

    def model(self) -> DialogueModel:
        return DialogueModel(self.body_config)

    def batches(self) -> LengthBuckets:
        return self.train

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        return dialogue_loss(model, batch)

    def measure(self, model: Any, device: torch.device) -> dict[str, float]:
        """Of the validation answers: loss in nats per token, its exponential, and the share of tokens that are the
        likeliest; in eval mode without gradients.
        """
        nats = right = tokens = 0.0
        for _, batch in self.validation.one_pass():
            x_ND, labels_N = answer_states(model, {name: value.to(device) for name, value in batch.items()})
            log_NV = widen(model.body.logits(x_ND)).log_softmax(dim=-1)
            nats -= float(log_NV.gather(1, labels_N[:, None]).double().sum())
            right += int((log_NV.argmax(dim=-1) == labels_N).sum())
            tokens += len(labels_N)
        return {"loss": nats / tokens, "perplexity": math.exp(nats / tokens), "token_accuracy": right / tokens}


def refuse_settings(settings: Finetune, config: ModelConfig) -> None:
    """Raises HallmarkError with all that cannot be."""
    problems = Problems("params.yaml")
    if config.family != "decoder":
        problems.add(f"model: a dialogue is learned by a decoder, and this is an {config.family}")
    if settings.adapt == "head":
        problems.add("finetune.adapt: head; a dialogue has no new head to learn; allowed: full, lora")
    if not 8 <= settings.max_tokens <= config.context_length:
        allowed = f"the model takes 8 to {config.context_length}"
        problems.add(f"finetune.max_tokens: a dialogue of {settings.max_tokens} tokens: {allowed}")
    problems.raise_if_any(fix="change these keys")


def fit_rows(template: ChatTemplate, table: pd.DataFrame, max_tokens: int, where: str) -> Fitted:
    """The dialogues of a table as rows. Raises HallmarkError if none fits."""
    fitted = fit_dialogues(template, [messages_from_json(content) for content in table["messages"]], max_tokens)
    if not fitted.kept:
        raise HallmarkError(
            f"not one of {len(table)} dialogues of {table['split'].iloc[0]} has a last turn within {max_tokens} tokens",
            where=where,
            fix="raise finetune.max_tokens",
        )
    return fitted


def longest_answer(row: Row) -> int:
    """The tokens of the longest run that the assistant says, the end of the turn included."""
    edges = np.flatnonzero(np.diff([0, *map(int, row.is_said), 0]))
    return int((edges[1::2] - edges[::2]).max())
