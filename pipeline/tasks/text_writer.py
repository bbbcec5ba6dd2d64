"""Text to text: the network, the rows that it reads, and the trained model that writes.

encoder-decoder   the encoder reads   text <|eos|>                        and the decoder writes   target <|eos|>
decoder           it goes on from     <|bos|> text <|sep|>                with                     target <|eos|>

Legend: B rows, T positions, S positions of the source, N targets.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.common.errors import HallmarkError
from pipeline.model.config import ModelConfig
from pipeline.model.generation.generator import Generator
from pipeline.model.generation.settings import GenerationSettings
from pipeline.model.token_loss import TokenLoss
from pipeline.model.transformer import Transformer
from pipeline.model.weights import load_weights
from pipeline.tasks.batches import Batch
from pipeline.tasks.trained import PRECISIONS, read_trained
from pipeline.tokenization.tokenizer import Tokenizer

KIND = "sequence_to_sequence"
NO_TARGET = -100  # a label that counts nowhere
WRITTEN_ROWS = {"cpu": 8, "cuda": 64}  # texts at once
WIDTH_STEP = 16  # texts are padded to a multiple of this
FEWEST_TOKENS = 8  # of a source and of a target


class SequenceModel(nn.Module):
    """A language model with the head that predicts tokens: shared with its pretraining, so there is no new one.

    Args:
        config: of the body, an encoder-decoder or a decoder; its dropout is that of the task.
        label_smoothing: of the loss in training.

    Raises:
        HallmarkError: an encoder, which writes nothing.
    """

    def __init__(self, config: ModelConfig, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if config.family == "encoder":
            raise HallmarkError(
                "an encoder writes no text: it has learned to see both sides of every token",
                where="params.yaml: model.preset",
                fix="for kind sequence_to_sequence take an encoder-decoder (transformer-2017, t5) or a decoder (qwen3)",
            )
        self.body = Transformer(config)
        self.head = TokenLoss(NO_TARGET, label_smoothing)

    def forward(self, batch: Batch) -> Tensor:
        """nats_N of each label; 0 where there is none.

        Args:
            batch: "input_ids" and "labels", int64; of an encoder-decoder also "lengths", of the sources, and
                "target_ids", the labels moved to the right.
        """
        ids_BT = batch["input_ids"]
        if "target_ids" in batch:
            visible_BS = torch.arange(ids_BT.size(1), device=ids_BT.device) < batch["lengths"][:, None]
            x_BTD = self.body.decode(batch["target_ids"], self.body.encode(ids_BT, visible_BS))
        else:  # padding stands on the right, where no token of a decoder looks
            x_BTD = self.body.hidden_states(ids_BT)
        assert self.body.lm_head is not None
        return self.head(self.body.lm_head, x_BTD, batch["labels"])


def target_room(config: ModelConfig, max_tokens: int, asked: int | None) -> int:
    """How many tokens a target may have, its end included: as asked, or what the network has room for."""
    return asked or (config.context_length // 4 if config.family == "decoder" else max_tokens)


def source_room(config: ModelConfig, max_tokens: int, max_target_tokens: int) -> int:
    """How many tokens a source may have, marks included: a decoder needs room for the target behind it.

    Raises:
        HallmarkError: source or target do not fit the context.
    """
    room = config.context_length - (max_target_tokens if config.family == "decoder" else 0)
    if not FEWEST_TOKENS <= max_target_tokens <= config.context_length or min(room, max_tokens) < FEWEST_TOKENS:
        raise HallmarkError(
            f"the context of {config.context_length} tokens does not fit sources of up to {max_tokens} and targets of "
            f"up to {max_target_tokens}, of at least {FEWEST_TOKENS} each",
            where="params.yaml: finetune.max_tokens, max_target_tokens of the task",
            fix="change them, or raise model.context_length",
        )
    return min(room, max_tokens)


def source_rows(texts: Sequence[str], tokenizer: Tokenizer, is_decoder: bool, room: int) -> tuple[list[list[int]], int]:
    """What the network reads of each text, at most `room` tokens with the marks; and how many texts were cut."""
    begin, end = ([tokenizer.bos_id], separator(tokenizer)) if is_decoder else ([], [tokenizer.require("eos")])
    most = room - len(begin) - len(end)
    encoded = tokenizer.encode_batch(list(texts))
    return [[*begin, *ids[:most], *end] for ids in encoded], sum(len(ids) > most for ids in encoded)


def separator(tokenizer: Tokenizer) -> list[int]:
    """What stands between a decoder's source and target; a published tokenizer without a mark for it has a new line."""
    return tokenizer.encode("\n") if tokenizer.sep_id is None else [tokenizer.sep_id]


def load_writer(folder: Path | str, device: str = "cpu") -> "TextWriter":
    """Read a folder that `save_trained` wrote.

    Raises:
        HallmarkError: weights or tokenizer are not the ones that were saved, or the task is of another kind.
    """
    weights, config, tokenizer = read_trained(folder, KIND)
    model = SequenceModel(ModelConfig.from_dict(config["model"]))
    load_weights(model, weights)
    return TextWriter(model.to(device).eval(), tokenizer, config["task"])


class TextWriter:
    """A trained model that writes a text for each text. What it writes depends on nothing but the text.

    Texts are written in batches of one fixed number of rows and one of a few widths, filled up with copies: every
    product then has the same shape whatever the other texts are, and each row is computed alike at every place of it.

    Args:
        model: in eval mode.
        tokenizer: the model's own.
        task: "task" of its config.
    """

    def __init__(self, model: SequenceModel, tokenizer: Tokenizer, task: dict[str, Any]) -> None:
        self.model, self.tokenizer, config = model, tokenizer, model.body.config
        self.is_decoder = config.family == "decoder"
        self.room: int = source_room(config, task["max_tokens"], task["max_target_tokens"])
        self.precision = PRECISIONS[task["precision"]]
        self.generator = Generator(model.body, tokenizer.bos_id, compile="never")
        self.device = model.body.embedding.tokens.weight.device
        self.rows = WRITTEN_ROWS[self.device.type]
        self.end_id = tokenizer.require("eos")
        beams = task["beams"]
        self.settings = GenerationSettings(
            max_new_tokens=task["max_target_tokens"],
            beams=beams,
            length_penalty=task["length_penalty"] if beams > 1 else 1.0,
        )

    def predict(self, texts: Sequence[str]) -> list[str]:
        """The text that is written for each text."""
        sources, _ = source_rows(texts, self.tokenizer, self.is_decoder, self.room)
        written = [""] * len(sources)
        lengths = np.array([len(source) for source in sources], dtype=np.int64)
        widths = np.minimum(-(-lengths // WIDTH_STEP) * WIDTH_STEP, self.room)
        for width in np.unique(widths):
            places = np.flatnonzero(widths == width)
            places = places[np.argsort(lengths[places], kind="stable")]  # texts that end together, roughly
            for first in range(0, len(places), self.rows):
                some = places[first : first + self.rows].tolist()
                for place, text in zip(some, self._write([sources[place] for place in some], int(width)), strict=True):
                    written[place] = text
        return written

    def _write(self, sources: list[list[int]], width: int) -> list[str]:
        filled = sources + sources[-1:] * (self.rows - len(sources))
        low = self.precision != torch.float32  # where it is not, a validation's own precision stays
        with torch.autocast(self.device.type, dtype=self.precision) if low else nullcontext():
            found = self.generator.generate(filled, self.settings, [self.end_id], width)[: len(sources)]
        return [self.tokenizer.decode(ids).strip() for ids in found]
