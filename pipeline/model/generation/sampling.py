"""The choice of the next token from its logits.

Legend: B rows, V vocabulary.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.model.generation.settings import GenerationSettings


def penalize_repetition(scores_BV: Tensor, seen_BV: Tensor, penalty: float) -> Tensor:
    """Make tokens that were seen (bool) less likely: s / penalty, or s * penalty where s is negative."""
    return torch.where(seen_BV, torch.where(scores_BV < 0, scores_BV * penalty, scores_BV / penalty), scores_BV)


def keep_top_k(logits_BV: Tensor, k: int) -> Tensor:
    """-inf for all but the k largest logits; those equal to the k-th stay, too."""
    least_B1 = logits_BV.topk(min(k, logits_BV.size(-1))).values[:, -1:]
    return logits_BV.masked_fill(logits_BV < least_B1, -math.inf)


def keep_top_p(logits_BV: Tensor, p: float) -> Tensor:
    """-inf for the unlikeliest tokens whose probabilities sum to at most 1 - p; the likeliest stays in any case."""
    ordered_BV, places_BV = logits_BV.sort(dim=-1)
    goes_BV = ordered_BV.softmax(dim=-1).cumsum(dim=-1) <= 1 - p
    goes_BV[:, -1] = False
    return logits_BV.masked_fill(torch.zeros_like(goes_BV).scatter(1, places_BV, goes_BV), -math.inf)


def keep_min_p(logits_BV: Tensor, p: float) -> Tensor:
    """-inf for tokens less than p times as likely as the likeliest."""
    probabilities_BV = logits_BV.softmax(dim=-1)
    least_B1 = p * probabilities_BV.amax(dim=-1, keepdim=True)
    return logits_BV.masked_fill(probabilities_BV < least_B1, -math.inf)


def narrow(logits_BV: Tensor, settings: GenerationSettings) -> Tensor:
    """Logits after temperature, top-k, top-p and min-p, in this order, as `transformers` applies them."""
    logits_BV = logits_BV / settings.temperature
    if settings.top_k is not None:
        logits_BV = keep_top_k(logits_BV, settings.top_k)
    if settings.top_p is not None and settings.top_p < 1:
        logits_BV = keep_top_p(logits_BV, settings.top_p)
    if settings.min_p is not None:
        logits_BV = keep_min_p(logits_BV, settings.min_p)
    return logits_BV


def draw(logits_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """ids_B: the token at which the sum of probabilities passes uniform (float64, in [0, 1))."""
    sums_BV = logits_BV.double().softmax(dim=-1).cumsum(dim=-1)
    aims_B1 = uniform_B[:, None] * sums_BV[:, -1:]
    return torch.searchsorted(sums_BV, aims_B1, right=True)[:, 0].clamp(max=logits_BV.size(-1) - 1)


class Seen:
    """Which tokens each row has, for the repetition penalty."""

    def __init__(self, prompts: Sequence[Sequence[int]], vocab_size: int, device: torch.device) -> None:
        self.seen_BV = torch.zeros(len(prompts), vocab_size, dtype=torch.bool, device=device)
        for row, ids in enumerate(prompts):
            self.seen_BV[row, torch.tensor(ids, device=device)] = True

    def add(self, ids_B: Tensor) -> None:
        self.seen_BV.scatter_(1, ids_B[:, None], True)

    def take(self, rows_B: Tensor) -> None:
        self.seen_BV = self.seen_BV[rows_B]


class Chooser:
    """Chooses one token per row, greedily or by a draw, row r by a generator of its own seeded with seed + r."""

    def __init__(
        self, settings: GenerationSettings, prompts: Sequence[Sequence[int]], vocab_size: int, device: torch.device
    ) -> None:
        self.settings = settings
        self.seen = Seen(prompts, vocab_size, device) if settings.repetition_penalty != 1.0 else None
        self.generators = [torch.Generator().manual_seed(settings.seed + row) for row in range(len(prompts))]

    def choose(self, logits_BV: Tensor) -> Tensor:
        """float32 logits to ids_B, int64."""
        if self.seen is not None:
            logits_BV = penalize_repetition(logits_BV, self.seen.seen_BV, self.settings.repetition_penalty)
        if self.settings.temperature:
            uniform = [torch.rand(1, generator=own, dtype=torch.float64) for own in self.generators]
            ids_B = draw(narrow(logits_BV, self.settings), torch.cat(uniform).to(logits_BV.device))
        else:
            ids_B = logits_BV.argmax(dim=-1)
        if self.seen is not None:
            self.seen.add(ids_B)
        return ids_B
