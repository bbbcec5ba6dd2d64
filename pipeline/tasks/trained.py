"""What the kinds of task share: a body's token vectors, a trained model's folder, and how it is asked.

Legend: B rows of a batch, T positions, R those whose vectors are wanted, D hidden size.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.common.errors import HallmarkError
from pipeline.model.transformer import Transformer
from pipeline.model.weights import CONFIG, named_weights, read_weights, save_checkpoint_folder
from pipeline.tasks.batches import MOST_LENGTHS, bucket_lengths, every_few, pad_rows, pad_to_longest, smallest_fitting
from pipeline.tokenization.tokenizer import Tokenizer

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MEASURED_ROWS = 32  # rows at once in validation
PREDICTED_ROWS = {"cpu": 1, "cuda": 64}  # rows at once in prediction


def token_vectors(
    body: Transformer,
    ids_BT: Tensor,
    lengths_B: Tensor,
    separator: int | None = None,
    asked_BR: Tensor | None = None,
) -> Tensor:
    """Token ids (int64, padded on the right) and their counts to x_BTD, or to x_BRD, those at `asked_BR` alone.

    `separator` stands between two texts; a network that has segments tells them apart. None: there is one text.
    """
    visible_BT = None  # padding stands on the right, where no token of a decoder looks
    if body.encoder is not None:
        visible_BT = torch.arange(ids_BT.size(1), device=ids_BT.device) < lengths_B[:, None]
    segments_BT = None
    if separator is not None and body.config.segments > 1:
        segments_BT = segments_of(ids_BT, separator)
    return body.hidden_states(ids_BT, visible_BT, segments_BT=segments_BT, asked_BR=asked_BR)


def segments_of(ids_BT: Tensor, separator: int) -> Tensor:
    """int64 (B, T): 0 up to the first separator, itself included; 1 behind it, as BERT tells two texts apart."""
    is_separator_BT = (ids_BT == separator).long()
    return (is_separator_BT.cumsum(dim=1) > is_separator_BT).long()


def save_trained(
    folder: Path | str, model: nn.Module, task_config: dict[str, Any], precision: str, tokenizer: Tokenizer
) -> None:
    """Write a task model's folder: see `pipeline.model.weights`. It predicts in `precision` from then on."""
    body: Any = model.body
    config = {"model": body.config.to_dict(), "task": {**task_config, "precision": precision}}
    save_checkpoint_folder(folder, named_weights(model), config, tokenizer)


def read_trained(folder: Path | str, kind: str) -> tuple[dict[str, Tensor], dict[str, Any], Tokenizer]:
    """Weights, config and tokenizer of a folder that `save_trained` wrote.

    Raises:
        HallmarkError: weights or tokenizer are not the ones that were saved, or the task is of another kind.
    """
    weights, config, tokenizer = read_weights(folder)
    found = config.get("task", {}).get("kind")
    if found != kind:
        raise HallmarkError(f"this model's task is {found!r}, not {kind!r}", where=str(Path(folder) / CONFIG))
    return weights, config, tokenizer


class Trained:
    """A trained task model. What it says of a row of token ids depends on nothing but the row.

    On a CPU every row is run alone, in one of a few lengths: other rows, their order and, in float32, the number of
    threads then cannot change a bit. On a GPU the rows of one length are run in batches of one fixed size.

    Args:
        model: takes ids_BT and lengths_B.
        tokenizer: the model's own.
        task: "task" of its config.
    """

    model: Any

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, task: dict[str, Any]) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.labels: list[str] = task.get("labels", [])
        self.max_tokens: int = task["max_tokens"]
        self.precision = PRECISIONS[task["precision"]]

    def logits(
        self, rows: Sequence[Sequence[int]], *beside: Sequence[np.ndarray]
    ) -> Iterator[tuple[list[int], Tensor]]:
        """The model's answers, batch by batch: the places of some rows, and their logits; behind them, of padding.

        `beside` are more numbers of each row that the model takes, too; they are padded with 0.
        """
        device = next(self.model.parameters()).device
        buckets = every_few(bucket_lengths(self.max_tokens), MOST_LENGTHS[device.type])
        padded = smallest_fitting(np.array([len(row) for row in rows], dtype=np.int64), buckets)
        at_once = PREDICTED_ROWS[device.type]
        for length in np.unique(padded):
            places = np.flatnonzero(padded == length)
            for first in range(0, len(places), at_once):
                some = places[first : first + at_once].tolist()
                ids = [rows[place] for place in some]
                ids_BT, lengths_B = pad_rows(ids, at_once, int(length), self.tokenizer.pad_id)
                more = [pad_to_longest([each[place] for place in some], at_once).to(device) for each in beside]
                with torch.autocast(device.type, dtype=self.precision, enabled=self.precision != torch.float32):
                    yield some, self.model(ids_BT.to(device), lengths_B.to(device), *more)
