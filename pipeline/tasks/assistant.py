"""A trained model of dialogues: its network, its answers, and how likely it finds those of others.

Legend: B rows of a batch, T positions, V vocabulary, N dialogues.
"""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.common.dialogues import ASSISTANT, Message, through_last_answer
from pipeline.common.errors import HallmarkError
from pipeline.model.config import ModelConfig
from pipeline.model.generation.generator import Generator
from pipeline.model.generation.settings import GenerationSettings, end_ids
from pipeline.model.norms import widen
from pipeline.model.transformer import Transformer
from pipeline.model.weights import CONFIG, load_weights
from pipeline.tasks.trained import Trained, read_trained
from pipeline.tokenization.chat import ChatTemplate
from pipeline.tokenization.tokenizer import Tokenizer

KIND = "dialogue"
COUNTS = ("nats", "tokens", "right", "text_nats", "text_bytes")  # what `Assistant.predict_tokens` counts


class DialogueModel(nn.Module):
    """A language model with its own head: nothing in it is new to the task."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.body = Transformer(config)
        self.head = nn.Identity()

    def forward(self, ids_BT: Tensor, _lengths_B: Tensor) -> Tensor:
        """Token ids (int64, padded on the right) to logits_BTV of each one's successor, float32."""
        return widen(self.body(ids_BT))


class Row(NamedTuple):
    """A dialogue as ids, and which of them the assistant says."""

    ids: list[int]
    is_said: list[bool]


class Fitted(NamedTuple):
    """Dialogues that fit a row.

    Attributes:
        rows: of each dialogue, None where no part of it that ends with its last answer fits.
        cut: how many have lost their first turns.
    """

    rows: list[Row | None]
    cut: int

    @property
    def kept(self) -> list[Row]:
        return [row for row in self.rows if row is not None]

    @property
    def too_long(self) -> int:
        return len(self.rows) - len(self.kept)


def fit_dialogues(template: ChatTemplate, dialogues: Sequence[Sequence[Message]], max_tokens: int) -> Fitted:
    """Each dialogue up to its last answer, as a row; longer ones without their first turns."""
    whole = template.turns([through_last_answer(messages) for messages in dialogues])
    kept = [template.newest(turns, max_tokens) for turns in whole]
    rows = [Row(*template.row(turns)) if turns else None for turns in kept]
    cut = sum(turns is not None and len(turns) < len(all_) for turns, all_ in zip(kept, whole, strict=True))
    return Fitted(rows, cut)


def load_assistant(folder: Path | str, device: str = "cpu") -> "Assistant":
    """Read a folder that `save_trained` wrote.

    Raises:
        HallmarkError: weights or tokenizer are not the ones that were saved, the task is of another kind, or the model
            has learned another chat template.
    """
    weights, config, tokenizer = read_trained(folder, KIND)
    assistant = Assistant(DialogueModel(ModelConfig.from_dict(config["model"])), tokenizer, config["task"])
    if assistant.template.jinja != config["task"]["chat_template"]:
        raise HallmarkError("this model has learned another chat template", where=str(Path(folder) / CONFIG))
    load_weights(assistant.model, weights)
    assistant.model.to(device).eval()
    return assistant


class Assistant(Trained):
    """A trained model that answers. What it says to a dialogue depends on nothing but the dialogue.

    Attributes:
        answer_tokens: of an answer, at most; a prompt leaves room for so many.
    """

    model: DialogueModel

    def __init__(self, model: DialogueModel, tokenizer: Tokenizer, task: dict[str, Any]) -> None:
        super().__init__(model, tokenizer, task)
        self.template = ChatTemplate(tokenizer)
        self.answer_tokens: int = task["answer_tokens"]

    @torch.inference_mode()
    def predict_tokens(self, rows: Sequence[Row]) -> np.ndarray:
        """Predict each token that the assistant says in a row, given all that stands before it.

        Returns:
            float64 (N, 5), the sums over each row's tokens, see `COUNTS`: cross-entropy in nats, tokens, tokens that
            were the likeliest; and, if the tokenizer loses nothing, nats and bytes of the tokens that stand for text.
        """
        counts = np.zeros((len(rows), len(COUNTS)))
        target_bytes = self.tokenizer.token_bytes if self.tokenizer.is_lossless else None
        for some, logits_BTV in self.logits([row.ids[:-1] for row in rows]):
            for place, logits_TV in zip(some, logits_BTV, strict=False):
                said = np.flatnonzero(rows[place].is_said) - 1  # what stands before each predicts it
                ids = np.array(rows[place].ids)[said + 1]
                log_NV = logits_TV[torch.from_numpy(said).to(logits_TV.device)].log_softmax(dim=-1).cpu()
                nats = -log_NV.double().numpy()[np.arange(len(ids)), ids]
                counts[place] = count_tokens(nats, log_NV.argmax(dim=-1).numpy() == ids, ids, target_bytes)
        return counts

    def prompt(self, messages: Sequence[Message]) -> list[int] | None:
        """The ids that the answer follows, of the newest turns that fit; None: not even the last ones do."""
        [turns] = self.template.turns([messages])
        answer_begins = self.template.begins[ASSISTANT]
        kept = self.template.newest(turns, self.max_tokens - self.answer_tokens - len(answer_begins))
        return None if kept is None else self.template.prompt(kept)

    def answer(self, dialogues: Sequence[Sequence[Message]]) -> list[str]:
        """What the assistant says next in each dialogue: the likeliest token each time, in float32, each by itself.

        Raises:
            HallmarkError: a dialogue's last turn is too long.
        """
        return [self._continue(self._require_prompt(messages)) for messages in dialogues]

    def _require_prompt(self, messages: Sequence[Message]) -> list[int]:
        prompt = self.prompt(messages)
        if prompt is None:
            raise HallmarkError(
                f"the last turn is longer than {self.max_tokens - self.answer_tokens} tokens",
                fix="shorten it, or train with a larger finetune.max_tokens",
            )
        return prompt

    def _continue(self, prompt: list[int]) -> str:
        ends = end_ids(self.tokenizer, self.model.body.config.family)
        [ids] = self._generator.generate([prompt], GenerationSettings(self.answer_tokens), ends)
        return self.tokenizer.decode(ids[:-1] if ids[-1] in ends else ids)

    @cached_property
    def _generator(self) -> Generator:
        return Generator(self.model.body, compile="never")


def count_tokens(
    nats: np.ndarray, right: np.ndarray, ids: np.ndarray, target_bytes: np.ndarray | None
) -> tuple[float, ...]:
    """The `COUNTS` of tokens, given each one's nats, whether it was the likeliest, and the bytes that ids stand for."""
    text_bytes = np.zeros(len(ids)) if target_bytes is None else target_bytes[ids]
    return nats.sum(), len(ids), right.sum(), nats[text_bytes > 0].sum(), text_bytes.sum()
