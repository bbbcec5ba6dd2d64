"""Writing a text for a text (translation, summarisation, code to its documentation), ready to be trained.

The pretrained network is kept whole, with the head that predicts tokens; the loss is over the tokens of the targets.

Legend: N pairs, B rows of a batch, T positions, K sizes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from pipeline.common.errors import HallmarkError
from pipeline.common.params import Finetune, Task
from pipeline.model.accounting import body_flops_per_token, head_flops_per_token, stack_flops_per_token
from pipeline.model.config import ModelConfig
from pipeline.tasks.batches import Batch, LengthBuckets, pad_rows
from pipeline.tasks.rows import draw_rows, of_split, validation_rows
from pipeline.tasks.text_metrics import count_texts, text_figures
from pipeline.tasks.text_writer import KIND, NO_TARGET, SequenceModel, TextWriter, source_room, source_rows, target_room
from pipeline.tasks.trained import MEASURED_ROWS
from pipeline.tokenization.tokenizer import Tokenizer
from pipeline.training.loop import steady_sum

SIZE_SHARES = (0.5, 0.8, 0.95, 1.0)  # of the pairs that each size holds, roughly
SIZE_STEP = 8


@dataclass(frozen=True)
class Pairs:
    """The rows of one split, as token ids.

    Attributes:
        sources: as the network reads them.
        targets: with their end, or without it where they were cut.
        truth: the targets as texts; texts: what is read.
        cut, targets_cut: how many sources and targets were too long.
    """

    sources: list[list[int]]
    targets: list[list[int]]
    texts: list[str]
    truth: list[str]
    cut: int
    targets_cut: int


def encode_pairs(rows: pd.DataFrame, tokenizer: Tokenizer, is_decoder: bool, room: int, most: int) -> Pairs:
    """Token ids of the columns `text` and `target`: sources of up to `room` tokens, targets of up to `most`."""
    texts, truth, end = rows["text"].tolist(), rows["target"].tolist(), tokenizer.require("eos")
    sources, cut = source_rows(texts, tokenizer, is_decoder, room)
    encoded = tokenizer.encode_batch(truth)
    targets = [[*ids, end][:most] for ids in encoded]
    return Pairs(sources, targets, texts, truth, cut, sum(len(ids) >= most for ids in encoded))


def choose_sizes(lengths_NE: np.ndarray, most: int) -> np.ndarray:
    """The few sizes (K, E) that rows are padded to, E lengths each, rising, of up to `most` tokens.

    Each side of a size is as long as `SIZE_SHARES` of the rows need. The last size holds every row, and no two sizes
    begin with the same length.
    """
    shares = np.quantile(lengths_NE, SIZE_SHARES, axis=0, method="higher")
    sizes_KE = np.minimum(-(-shares.astype(np.int64) // SIZE_STEP) * SIZE_STEP, most)
    is_last_K = np.append(np.diff(sizes_KE[:, 0]) > 0, True)
    return sizes_KE[is_last_K]


def fit_sizes(lengths_NE: np.ndarray, sizes_KE: np.ndarray) -> np.ndarray:
    """For each row the place of the smallest size that holds it, int64 (N,)."""
    return (lengths_NE[:, None] > sizes_KE).any(axis=2).sum(axis=1)


def flops_per_token(config: ModelConfig) -> int:
    """Forward and backward FLOPs per token of the source, with as many of the target."""
    target = stack_flops_per_token(config, decoder=True) if config.family == "encoder-decoder" else 0
    return body_flops_per_token(config) + target + head_flops_per_token(config)


class SequenceToSequence:
    """One task of target texts, ready to be trained: see `pipeline.tasks.kinds.FinetuneTask`.

    Args:
        rows: the task's table, see `pipeline.tasks.rows.read_rows`.
        where: the file they come from, for messages.
        tokenizer: the model's own.
        task: settings of this task.
        settings: settings of fine-tuning.
        config: of the body.
        seed: decides which pairs are drawn, and the order of the batches.

    Raises:
        HallmarkError: a split without rows, an encoder, lengths that do not fit the context, a tokenizer without the
            mark that ends a text, or settings under which nothing would learn.
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
        if settings.adapt == "head":
            raise HallmarkError(
                "a task of kind sequence_to_sequence has no new head: nothing would learn",
                where="params.yaml: finetune.adapt",
                fix="set it to full or lora",
            )
        self.tokenizer, self.settings, self.seed = tokenizer, settings, seed
        self.body_config = replace(config, dropout=settings.dropout)
        self.is_decoder = config.family == "decoder"
        most = target_room(config, settings.max_tokens, task.max_target_tokens)
        room = source_room(config, settings.max_tokens, most)
        learned = draw_rows(of_split(rows, "train", where), task.labels_per_class, seed)
        held_out = validation_rows(rows, where, settings.validation_texts, seed)
        limits = tokenizer, self.is_decoder, room, most
        self.learned, self.measured = encode_pairs(learned, *limits), encode_pairs(held_out, *limits)
        lengths = [self._lengths(pairs) for pairs in (self.learned, self.measured)]
        sizes_KE = choose_sizes(lengths[0], config.context_length)
        sizes_KE[-1] = np.maximum(sizes_KE[-1], lengths[1].max(axis=0))
        self.buckets, self.targets_of = sizes_KE[:, 0], dict(sizes_KE[:, [0, -1]].tolist())
        self.train = self._batches(self.learned, lengths[0], sizes_KE, learned["id"].tolist(), settings.batch_size)
        names = held_out["id"].tolist()
        self.validation = self._batches(self.measured, lengths[1], sizes_KE, names, MEASURED_ROWS)
        self.best_metric: str = task.measure
        self.config = {
            "kind": KIND,
            "max_tokens": settings.max_tokens,
            "max_target_tokens": most,
            "beams": task.beams,
            "length_penalty": task.length_penalty,
        }
        self.facts = {
            "train_texts": len(learned),
            "train_texts_cut": self.learned.cut,
            "train_targets_cut": self.learned.targets_cut,
            "target_tokens": sum(map(len, self.learned.targets)),
            "validation_texts": len(held_out),
        }

    def model(self) -> SequenceModel:
        return SequenceModel(self.body_config, self.settings.label_smoothing)

    def batches(self) -> LengthBuckets:
        return self.train

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """The summed cross-entropy of the targets' tokens in nats, and their number."""
        return steady_sum(model(batch)), (batch["labels"] != NO_TARGET).sum().float()

    def measure(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Loss per token on the true targets (without smoothing), and the figures of what is written greedily."""
        nats, tokens = 0.0, 0.0
        for _, batch in self.validation.one_pass():
            summed, count = self.loss(model, {name: value.to(device) for name, value in batch.items()})
            nats, tokens = nats + float(summed), tokens + float(count)
        assert isinstance(model, SequenceModel)
        greedy = self.config | {"beams": 1, "precision": "float32"}
        written = TextWriter(model, self.tokenizer, greedy).predict(self.measured.texts)
        figures = text_figures(count_texts(self.measured.truth, written).sum(axis=0))
        return {"loss": nats / max(tokens, 1), **{name: float(value) for name, value in figures.items()}}

    def _lengths(self, pairs: Pairs) -> np.ndarray:
        """int64 (N, E): of source and target, or in a decoder of both together, which is one row."""
        sides = [np.array([len(ids) for ids in side], dtype=np.int64) for side in (pairs.sources, pairs.targets)]
        return (sides[0] + sides[1] - 1)[:, None] if self.is_decoder else np.stack(sides, axis=1)

    def _batches(
        self, pairs: Pairs, lengths_NE: np.ndarray, sizes_KE: np.ndarray, names: Sequence[str], rows: int
    ) -> LengthBuckets:
        def collate(numbers: np.ndarray, length: int) -> Batch:
            chosen = [(pairs.sources[number], pairs.targets[number]) for number in numbers]
            if self.is_decoder:
                return self._rows_of_decoder(chosen, rows, length)
            return self._rows_of_both(chosen, rows, length, self.targets_of[length])

        padded_N = sizes_KE[fit_sizes(lengths_NE, sizes_KE), 0]
        return LengthBuckets(padded_N, self.buckets, rows, collate, self.seed, names)

    def _rows_of_both(
        self, chosen: list[tuple[list[int], list[int]]], rows: int, length: int, target_length: int
    ) -> Batch:
        pad = self.tokenizer.pad_id
        ids_BS, lengths_B = pad_rows([source for source, _ in chosen], rows, length, pad)
        begun = [[self.tokenizer.bos_id, *target[:-1]] for _, target in chosen]
        target_ids_BT, _ = pad_rows(begun, rows, target_length, pad)
        labels_BT, _ = pad_rows([target for _, target in chosen], rows, target_length, NO_TARGET)
        return {"input_ids": ids_BS, "lengths": lengths_B, "target_ids": target_ids_BT, "labels": labels_BT}

    def _rows_of_decoder(self, chosen: list[tuple[list[int], list[int]]], rows: int, length: int) -> Batch:
        ids_BT, _ = pad_rows(
            [[*source, *target[:-1]] for source, target in chosen], rows, length, self.tokenizer.pad_id
        )
        labels = [[NO_TARGET] * (len(source) - 1) + target for source, target in chosen]
        return {"input_ids": ids_BT, "labels": pad_rows(labels, rows, length, NO_TARGET)[0]}
