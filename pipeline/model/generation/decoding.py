"""Texts that grow token by token, with what the model has read of them in a cache.

Legend: B rows, T positions of the prompts, S positions of the sources, V vocabulary.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pipeline.common.errors import Problems
from pipeline.model.block import Memory
from pipeline.model.cache import DecoderCache
from pipeline.model.config import ModelConfig, round_up
from pipeline.model.transformer import Transformer

BUCKET = 64  # caches and sources are as long as a multiple of this: few shapes, so few compilations

# (ids_B1, positions_B1, memory, cache) to the next tokens' logits_BV
Step = Callable[[Tensor, Tensor, Memory | None, DecoderCache], Tensor]


def decoding_step(
    model: Transformer, ids_B1: Tensor, positions_B1: Tensor, memory: Memory | None, cache: DecoderCache
) -> Tensor:
    """One token of each row, read into the cache, to float32 logits_BV of the next."""
    states_B1D = model.decode(ids_B1, memory, positions_BT=positions_B1, cache=cache)
    return model.logits(states_B1D[:, -1]).float()


def check_room(config: ModelConfig, prompts: Sequence[Sequence[int]], new_tokens: int) -> None:
    """Refuse, before anything runs, prompts that are empty or that with their continuation do not fit the context.

    Raises:
        HallmarkError: with the counts of every such prompt.
    """
    problems, context = Problems("prompts"), config.context_length
    across = config.family == "encoder-decoder"
    if across and new_tokens > context:
        problems.add(f"max_new_tokens {new_tokens} is more than the decoder's context of {context}")
    for number, ids in enumerate(prompts):
        if not ids:
            problems.add(f"prompt {number}: empty; it begins at least with the tokenizer's bos_id")
        elif across and len(ids) > context:
            problems.add(f"prompt {number}: {len(ids)} tokens; the encoder's context is {context}")
        elif not across and len(ids) + new_tokens > context:
            problems.add(f"prompt {number}: {len(ids)} tokens + max_new_tokens {new_tokens} > the context of {context}")
    problems.raise_if_any(fix="shorten the prompt, or lower max_new_tokens")


class Decoding:
    """The rows of a batch on their way.

    Args:
        model: a decoder or encoder-decoder in eval mode.
        prompts: token ids of each row; of an encoder-decoder, the sources.
        start_id: an encoder-decoder's target begins with it; a decoder has no need of it.
        new_tokens: how many tokens will be added at most.
        step: how one token is read, `decoding_step` or a faster form of it.
        width: prompts are padded to so many tokens; None: to what the longest needs.

    Attributes:
        logits_BV: float32, of each row's next token.
        begun: the ids that each row's decoder has read at the start.
    """

    def __init__(
        self,
        model: Transformer,
        prompts: Sequence[Sequence[int]],
        start_id: int,
        new_tokens: int,
        step: Step,
        width: int | None = None,
    ) -> None:
        config, weight = model.config, model.embedding.tokens.weight
        self.step, self.memory = step, None
        self.begun: list[list[int]] = [list(ids) for ids in prompts]
        if config.family == "encoder-decoder":
            width = width or min(round_up(max(map(len, prompts)), BUCKET), config.context_length)
            ids_BS, lengths_B = _pad(prompts, width, weight.device)
            self.memory = model.encode(ids_BS, torch.arange(width, device=weight.device) < lengths_B[:, None])
            self.begun, width = [[start_id]] * len(prompts), 1
        ids_BT, self.lengths_B = _pad(self.begun, width or max(map(len, self.begun)), weight.device)
        room = round_up(ids_BT.size(1) + new_tokens, BUCKET)
        self.cache = DecoderCache.empty(config, len(prompts), room, weight.dtype, weight.device)
        positions_1T = torch.arange(ids_BT.size(1), device=weight.device)[None]
        last_B1 = self.lengths_B[:, None] - 1
        states_B1D = model.decode(ids_BT, self.memory, positions_BT=positions_1T, cache=self.cache, asked_BR=last_B1)
        self.logits_BV = model.logits(states_B1D[:, 0]).float()

    def append(self, ids_B: Tensor) -> None:
        """Read one more token of each row."""
        self.logits_BV = self.step(ids_B[:, None], self.lengths_B[:, None], self.memory, self.cache)
        self.lengths_B = self.lengths_B + 1

    def take(self, rows_B: Tensor) -> None:
        """Go on with these rows, in this order, any of them several times."""
        self.cache.take(rows_B)
        self.lengths_B, self.logits_BV = self.lengths_B[rows_B], self.logits_BV[rows_B]
        if self.memory is not None and self.memory.visible_BS is not None:
            self.memory = Memory(self.memory.states_BSD[rows_B], self.memory.visible_BS[rows_B])


def _pad(rows: Sequence[Sequence[int]], width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """ids (B, width), padded with 0 on the right, and lengths_B, int64. What padding writes is never seen."""
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    for row, found in enumerate(rows):
        ids[row, : len(found)] = torch.tensor(found)
    return ids.to(device), torch.tensor([len(found) for found in rows], device=device)
