"""Text in, text out: whole, or piece by piece as it is written."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.common.errors import HallmarkError
from pipeline.model.config import ModelConfig
from pipeline.model.generation.generator import Generator
from pipeline.model.generation.settings import GenerationSettings, end_ids
from pipeline.model.transformer import Transformer
from pipeline.model.weights import load_weights, read_weights
from pipeline.tokenization.tokenizer import Tokenizer

UNFINISHED = "\ufffd"  # what bytes decode to that are no whole character, or not yet


@dataclass(frozen=True)
class Continuation:
    """What follows a prompt.

    Attributes:
        prompt: as it was given.
        text: what follows, without the end or what stopped it.
        ids: the new token ids, with the end or what stopped it.
        reason: why it ended: "end" (the tokenizer's end of a text), "stop" (a stop string) or "length".
    """

    prompt: str
    text: str
    ids: list[int]
    reason: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class TextPieces:
    """Tokens to pieces of text that never split a character, up to the first stop string."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self.tokenizer, self.stop = tokenizer, tuple(stop)
        self.ids: list[int] = []
        self.text, self.stopped = "", False
        self._given = 0  # characters of the text that were handed out
        self._done, self._done_ids = "", 0  # text that no later token changes, and how many ids it is

    def push(self, token: int) -> str:
        """The text that is certain with one token more; often none."""
        self.ids.append(token)
        self._read()
        return self._give(self._certain())

    def finish(self) -> str:
        """The text that was held back."""
        return self._give(len(self.text))

    def _read(self) -> None:
        self.text = self._done + self.tokenizer.decode(self.ids[self._done_ids :])
        if self.tokenizer.is_byte_level and not self.text.endswith(UNFINISHED):
            self._done, self._done_ids = self.text, len(self.ids)  # so that long texts are not decoded again and again
        found = [place for stop in self.stop if (place := self.text.find(stop)) >= 0]
        if found:
            self.text, self.stopped = self.text[: min(found)], True

    def _certain(self) -> int:
        """How many characters can neither change any more nor become part of a stop string."""
        if self.stopped:
            return len(self.text)
        whole = self.text.rstrip(UNFINISHED)
        held = max((_overlap(whole, stop) for stop in self.stop), default=0)
        return len(whole) - held

    def _give(self, up_to: int) -> str:
        piece = self.text[self._given : up_to]
        self._given = max(self._given, up_to)
        return piece


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that `stop` begins with."""
    return next((size for size in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:size])), 0)


class TextGenerator:
    """A model and its tokenizer that continue texts.

    A decoder goes on from the prompt, which begins a document; an encoder-decoder answers to it as its source.
    See `end_ids` for what ends a text.

    Args:
        model: in eval mode.
        tokenizer: the one it was trained with.
        precision, compile, steps: see `Generator`.
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        *,
        precision: str = "float32",
        compile: str = "auto",
        steps: int = 0,
    ) -> None:
        self.tokenizer = tokenizer
        self.generator = Generator(model, tokenizer.bos_id, precision=precision, compile=compile, steps=steps)
        self.is_decoder = model.config.family == "decoder"
        self.context_length = model.config.context_length
        self.ends = end_ids(tokenizer, model.config.family)

    @classmethod
    def load(
        cls, folder: Path | str, *, precision: str = "float32", compile: str = "auto", steps: int = 0
    ) -> "TextGenerator":
        """Read a folder that `save_checkpoint_folder` wrote.

        Raises:
            HallmarkError: there is none, it is damaged, or it holds no model that continues text.
        """
        weights, described, tokenizer = read_weights(folder)
        if "task" in described:
            raise HallmarkError(
                "this model was fine-tuned for a task, and does not go on with a text",
                where=str(folder),
                fix="take a pretrained one: hallmark generate pretrain; one of dialogues answers to: hallmark chat",
            )
        model = Transformer(ModelConfig.from_dict(described["model"])).eval()
        load_weights(model, weights)
        return cls(model, tokenizer, precision=precision, compile=compile, steps=steps)

    @property
    def reasons(self) -> dict[str, str]:
        """What was decided, to be printed."""
        return self.generator.reasons

    def generate(self, prompts: Sequence[str], settings: GenerationSettings) -> list[Continuation]:
        """Continue each text of a batch.

        Raises:
            HallmarkError: before anything runs: a prompt that with max_new_tokens does not fit the context.
        """
        if settings.beams > 1:
            found = self.generator.generate(self._encode(prompts), settings, self.ends)
            return [self._whole(prompt, ids) for prompt, ids in zip(prompts, found, strict=True)]
        texts = [TextPieces(self.tokenizer, settings.stop) for _ in prompts]
        for _ in self._pieces(prompts, texts, settings):
            pass
        return [self._continuation(prompt, text) for prompt, text in zip(prompts, texts, strict=True)]

    def stream(self, prompt: str, settings: GenerationSettings) -> Iterator[str]:
        """The continuation of one text in pieces as soon as they are certain; together they are its text.

        Raises:
            HallmarkError: with the first piece: as `generate`.
        """
        if settings.beams > 1:
            yield self.generate([prompt], settings)[0].text
            return
        text = TextPieces(self.tokenizer, settings.stop)
        for pieces in self._pieces([prompt], [text], settings):
            yield from filter(None, pieces)
        if piece := text.finish():
            yield piece

    def write(self, prompts: Sequence[str], settings: GenerationSettings, *, stream: bool) -> Iterator[str]:
        """What a terminal shows: each prompt (of a decoder) with what follows, an empty line between two.

        Args:
            prompts: texts.
            settings: of all of them.
            stream: one after another, each as it is written; otherwise all at once, in one batch.
        """
        if stream:
            found: Iterator[Iterator[str]] = (
                self.stream(prompt, replace(settings, seed=settings.seed + row)) for row, prompt in enumerate(prompts)
            )
        else:
            found = (iter([continuation.text]) for continuation in self.generate(prompts, settings))
        for number, (prompt, pieces) in enumerate(zip(prompts, found, strict=True)):
            yield "\n" if number else ""
            yield prompt if self.is_decoder else ""
            yield from pieces
            yield "\n"

    def _pieces(
        self, prompts: Sequence[str], texts: Sequence[TextPieces], settings: GenerationSettings
    ) -> Iterator[list[str]]:
        steps = self.generator.stream(self._encode(prompts), settings, self.ends, lambda row: texts[row].stopped)
        for step in steps:
            yield [texts[row].push(token) for row, token in step.items()]

    def _encode(self, prompts: Sequence[str]) -> list[list[int]]:
        encoded = self.tokenizer.encode_batch(prompts)
        if self.is_decoder:
            return [[self.tokenizer.bos_id, *ids] for ids in encoded]
        return [[*ids, self.tokenizer.require("eos")] for ids in encoded]

    def _whole(self, prompt: str, ids: list[int]) -> Continuation:
        text = TextPieces(self.tokenizer)
        for token in ids:
            text.push(token)
        return self._continuation(prompt, text)

    def _continuation(self, prompt: str, text: TextPieces) -> Continuation:
        ended = "end" if text.ids[-1] in self.ends else "length"
        return Continuation(prompt, text.text, text.ids, "stop" if text.stopped else ended)
