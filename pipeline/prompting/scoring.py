"""How likely a decoder finds each of some answers behind a prompt.

What several prompts begin with is read once, and each prompt is read once for all answers. Sums are in float32.

Legend: B rows of a batch, N prompts, C answers, U distinct beginnings, T new positions, D hidden size, V vocabulary.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from pipeline.common.errors import HallmarkError
from pipeline.model.cache import DecoderCache
from pipeline.model.transformer import Transformer
from pipeline.tasks.batches import pad_rows

MOST_ROWS = 32
CACHE_BYTES = 512 << 20  # of the keys and values of a batch


class Scorer:
    """Log-likelihoods of answers under a decoder.

    Args:
        model: a decoder in eval mode, with its head.

    Raises:
        HallmarkError: it is no decoder.
    """

    def __init__(self, model: Transformer) -> None:
        if model.config.family != "decoder":
            raise HallmarkError(
                f"only a decoder can be prompted, and this model is an {model.config.family}",
                where="params.yaml: model",
                fix="take a decoder preset, such as model.preset: qwen3, or model.init_from a causal model",
            )
        self.model, self.config = model, model.config
        self.device = model.embedding.tokens.weight.device

    @torch.inference_mode()
    def score(
        self, prompts: Sequence[list[int]], answers: Sequence[Sequence[int]], groups: Sequence[int] | None = None
    ) -> np.ndarray:
        """log p(answer | prompt) of every answer behind every prompt, in nats, float32 (N, C).

        Args:
            prompts: token ids, not empty; with the longest answer each has to fit the context.
            answers: token ids, not empty.
            groups: a number for each prompt; what those of one number begin with is read once. None: one group.
        """
        scores_NC = np.zeros((len(prompts), len(answers)), dtype=np.float32)
        begun = _beginnings(prompts, groups or [0] * len(prompts))
        longest = max(map(len, answers))
        read: tuple[list[tuple[int, ...]], DecoderCache] | None = None
        for rows in self._batches(prompts, begun, longest):
            distinct = list(dict.fromkeys(begun[row] for row in rows))
            if read is None or read[0] != distinct:  # a large group has many batches
                read = distinct, self._read_beginnings(distinct)
            some = [prompts[row] for row in rows]
            places_B = torch.tensor([distinct.index(begun[row]) for row in rows], device=self.device)
            room = max(map(len, some)) + longest
            cache = read[1].spread(places_B, room)
            scores_NC[rows] = self._score_batch(some, [len(begun[row]) for row in rows], cache, answers)
        return scores_NC

    def _batches(
        self, prompts: Sequence[list[int]], begun: Sequence[tuple[int, ...]], longest: int
    ) -> Iterator[list[int]]:
        """Numbers of prompts: of the same beginning and of similar length together."""
        order = sorted(range(len(prompts)), key=lambda row: (len(begun[row]), begun[row], len(prompts[row])))
        position_bytes = 2 * self.config.decoder_layers * self.config.kv_heads * self.config.head_dim * 4
        most = CACHE_BYTES // (position_bytes * (max(map(len, prompts)) + longest))
        size = max(1, min(MOST_ROWS, most))
        for first in range(0, len(order), size):
            yield order[first : first + size]

    def _read_beginnings(self, distinct: Sequence[tuple[int, ...]]) -> DecoderCache:
        """The cache of U beginnings. What padding wrote is written over by what follows, or never seen."""
        ids_UT, _ = pad_rows(distinct, len(distinct), max(1, *map(len, distinct)), 0)
        cache = self._empty(len(distinct), ids_UT.size(1))
        positions_1T = torch.arange(ids_UT.size(1), device=self.device)[None]
        self.model.decode(ids_UT.to(self.device), positions_BT=positions_1T, cache=cache)
        return cache

    def _empty(self, rows: int, length: int) -> DecoderCache:
        return DecoderCache.empty(self.config, rows, length, self.model.embedding.tokens.weight.dtype, self.device)

    def _score_batch(
        self, prompts: Sequence[list[int]], begun: Sequence[int], cache: DecoderCache, answers: Sequence[Sequence[int]]
    ) -> np.ndarray:
        rest = [ids[start:] for ids, start in zip(prompts, begun, strict=True)]
        ids_BT, counts_B = pad_rows(rest, len(rest), max(map(len, rest)), 0)
        starts_B1, counts_B = torch.tensor(begun, device=self.device)[:, None], counts_B.to(self.device)
        places_T = torch.arange(ids_BT.size(1), device=self.device)
        # Padding behind a short row is kept inside the cache; the row itself never sees it.
        positions_BT = (starts_B1 + places_T).clamp(max=cache.length - 1)
        last_B1 = counts_B[:, None] - 1
        x_B1D = self.model.decode(ids_BT.to(self.device), positions_BT=positions_BT, cache=cache, asked_BR=last_B1)
        first_BV = self.model.logits(x_B1D[:, 0]).float().log_softmax(dim=-1)
        ends_B1 = starts_B1 + counts_B[:, None]
        found = [first_BV[:, answer[0]] + self._rest_of(answer, ends_B1, cache) for answer in answers]
        return torch.stack(found, dim=1).cpu().numpy()

    def _rest_of(self, answer: Sequence[int], ends_B1: Tensor, cache: DecoderCache) -> Tensor | float:
        """The log-likelihood of an answer's tokens from the second on, (B,). Each answer is written over the last one,
        at the same positions: the cache is never copied."""
        if len(answer) == 1:
            return 0.0
        ids_T = torch.tensor(answer, device=self.device)
        ids_BT = ids_T[:-1].expand(len(ends_B1), -1)
        positions_BT = ends_B1 + torch.arange(len(answer) - 1, device=self.device)
        x_BTD = self.model.decode(ids_BT, positions_BT=positions_BT, cache=cache)
        nats_BTV = self.model.logits(x_BTD).float().log_softmax(dim=-1)
        return nats_BTV.gather(2, ids_T[1:].expand(len(ends_B1), -1)[..., None]).sum(dim=(1, 2))


def _beginnings(prompts: Sequence[list[int]], groups: Sequence[int]) -> list[tuple[int, ...]]:
    """What each prompt has in common with its group; at least its own last token is left to be read."""
    members: dict[int, list[list[int]]] = {}
    for ids, group in zip(prompts, groups, strict=True):
        members.setdefault(group, []).append(ids[:-1])
    common = {group: _common(rows) for group, rows in members.items()}
    return [common[group] for group in groups]


def _common(rows: Sequence[list[int]]) -> tuple[int, ...]:
    """What all rows begin with: what the first and the last of them in sorted order do."""
    first, last = min(rows), max(rows)
    differ = (place for place, (one, other) in enumerate(zip(first, last, strict=False)) if one != other)
    return tuple(first[: next(differ, min(len(first), len(last)))])
