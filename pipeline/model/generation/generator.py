"""Token ids to the ids that go on from them, for batches of any lengths.

Legend: B rows.
"""

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial

import torch

from pipeline.common.errors import HallmarkError, allowed
from pipeline.model.generation.decoding import Decoding, Step, check_room, decoding_step
from pipeline.model.generation.fast import choose_compile, compiled_step
from pipeline.model.generation.sampling import Chooser
from pipeline.model.generation.search import beam_search
from pipeline.model.generation.settings import GenerationSettings
from pipeline.model.transformer import Transformer

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Generator:
    """A network that continues token ids.

    Compiled or eager the tokens are the same, but for rounding where two are all but equally likely; so they are for
    other rows beside them. `float32` weights decide such cases as `transformers` does.

    Args:
        model: a decoder or encoder-decoder in eval mode, with its head.
        start_id: an encoder-decoder's target begins with it (the tokenizer's bos_id).
        precision: of weights and cache; "bfloat16" works on a copy.
        compile: "auto", "always" or "never".
        steps: how many decoding steps it will make at most; by this "auto" decides.

    Attributes:
        reasons: what was decided, to be printed.

    Raises:
        HallmarkError: an encoder, or an unknown precision.
    """

    def __init__(
        self,
        model: Transformer,
        start_id: int = 0,
        *,
        precision: str = "float32",
        compile: str = "auto",
        steps: int = 0,
    ) -> None:
        if model.decoder is None:
            raise HallmarkError(
                "an encoder continues no text: it has learned to see both sides of every token",
                fix="take a model of a decoder or encoder-decoder preset, such as model.preset: qwen3 in params.yaml",
            )
        if precision not in PRECISIONS:
            raise HallmarkError(f"precision: unknown {precision!r}; {allowed(PRECISIONS)}")
        self.model, self.start_id = _in_precision(model, PRECISIONS[precision]), start_id
        self.compiles, reason = choose_compile(compile, model.embedding.tokens.weight.device, steps)
        self.reasons = {"precision": precision, "steps": reason}
        self._compiled: dict[int, Step] = {}

    @torch.inference_mode()
    def stream(
        self,
        prompts: Sequence[Sequence[int]],
        settings: GenerationSettings,
        ends: Collection[int] = (),
        stopped: Callable[[int], bool] = lambda row: False,
        width: int | None = None,
    ) -> Iterator[dict[int, int]]:
        """The new token of each row that still goes on, step by step.

        Args:
            prompts: token ids of each row; of an encoder-decoder, the sources.
            settings: without beams.
            ends: token ids after which a row ends; they are given, too.
            stopped: asked for each row after each step: does it end for another reason?
            width: see `Decoding`.

        Raises:
            HallmarkError: at the first step, before anything runs: prompts that are empty or do not fit the context.
        """
        assert settings.beams == 1, "beams are not known until the end"
        decoding = self._begin(prompts, settings, width)
        chooser = Chooser(settings, decoding.begun, self.model.config.vocab_size, decoding.logits_BV.device)
        running, left = set(range(len(prompts))), settings.max_new_tokens
        while True:
            ids_B = chooser.choose(decoding.logits_BV)
            found = {row: token for row, token in enumerate(ids_B.tolist()) if row in running}
            yield found
            running = {row for row, token in found.items() if token not in ends and not stopped(row)}
            left -= 1
            if not running or not left:
                return
            decoding.append(ids_B)

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        settings: GenerationSettings,
        ends: Collection[int] = (),
        width: int | None = None,
    ) -> list[list[int]]:
        """The new ids of each row, its end token included; as `stream`, or by beam search."""
        if settings.beams > 1:
            return beam_search(self._begin(prompts, settings, width), settings, ends)
        added: list[list[int]] = [[] for _ in prompts]
        for step in self.stream(prompts, settings, ends, width=width):
            for row, token in step.items():
                added[row].append(token)
        return added

    def _begin(self, prompts: Sequence[Sequence[int]], settings: GenerationSettings, width: int | None) -> Decoding:
        check_room(self.model.config, prompts, settings.max_new_tokens)
        step = self._step(len(prompts) * settings.beams)
        return Decoding(self.model, prompts, self.start_id, settings.max_new_tokens, step, width)

    def _step(self, rows: int) -> Step:
        if not self.compiles:
            return partial(decoding_step, self.model)
        if rows not in self._compiled:
            self._compiled[rows] = compiled_step(self.model, rows)
        return self._compiled[rows]


def _in_precision(model: Transformer, dtype: torch.dtype) -> Transformer:
    """The model itself, or a copy with other parameters; tables of positions stay in float32."""
    if model.embedding.tokens.weight.dtype == dtype:
        return model
    copied = copy.deepcopy(model)
    for parameter in copied.parameters():
        parameter.data = parameter.data.to(dtype)
    return copied
