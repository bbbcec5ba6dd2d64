"""Beam search (Graves 2012, arXiv:1211.3711; Wu et al. 2016, arXiv:1609.08144), as `transformers` decides its ties.

Legend: B texts, R rows = texts x beams, C candidates of a text, V vocabulary.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, field

import torch

from pipeline.model.generation.decoding import Decoding
from pipeline.model.generation.sampling import Seen, penalize_repetition
from pipeline.model.generation.settings import GenerationSettings


@dataclass
class Text:
    """One text of a batch: its beams that go on, best first, and the best that ended."""

    beams: int
    length_penalty: float
    running: list[tuple[float, list[int]]]
    ended: list[tuple[float, list[int]]] = field(default_factory=list)
    done: bool = False

    def end(self, score: float, ids: list[int]) -> None:
        """Keep an ended text among the best ones. Of equal scores the earlier one stays before."""
        self.ended.append((score / len(ids) ** self.length_penalty, ids))
        self.ended = sorted(self.ended, key=lambda found: -found[0])[: self.beams]

    def settle(self) -> None:
        """Done once no running beam, as long as it now is, is better than the worst of as many that ended."""
        best, ids = self.running[0]
        full = len(self.ended) == self.beams
        self.done = full and best / len(ids) ** self.length_penalty <= self.ended[-1][0]


def beam_search(decoding: Decoding, settings: GenerationSettings, ends: Collection[int]) -> list[list[int]]:
    """The new ids of each row's best text, its end token included.

    In each step a text has its beams' best continuations as candidates, (1 + end tokens) x beams of them, at least two
    a beam. Those among the first `beams` that end, end; the best others go on.

    Args:
        decoding: the prompts, read; its rows are texts, and become texts x beams.
        settings: max_new_tokens, beams, length_penalty and repetition_penalty are read.
        ends: token ids that end a text.
    """
    beams, device = settings.beams, decoding.logits_BV.device
    count, vocab_size = decoding.logits_BV.shape
    kept = min(max(2, 1 + len(ends)) * beams, beams * vocab_size)
    seen = Seen(decoding.begun, vocab_size, device) if settings.repetition_penalty != 1.0 else None
    texts = [Text(beams, settings.length_penalty, [(0.0, [])] + [(-math.inf, [])] * (beams - 1)) for _ in range(count)]
    rows = torch.arange(count, device=device).repeat_interleave(beams)
    decoding.take(rows)
    if seen is not None:
        seen.take(rows)
    for number in range(settings.max_new_tokens):
        scores_RV = decoding.logits_BV.log_softmax(dim=-1)
        if seen is not None:
            scores_RV = penalize_repetition(scores_RV, seen.seen_BV, settings.repetition_penalty)
        running = [score for text in texts for score, _ in text.running]
        scores_RV = scores_RV + torch.tensor(running, device=device)[:, None]
        best = scores_RV.view(count, -1).topk(kept)
        last = number + 1 == settings.max_new_tokens
        sources, added = [], []
        for place, (text, scores, places) in enumerate(
            zip(texts, best.values.tolist(), best.indices.tolist(), strict=True)
        ):
            going = _advance(text, scores, places, vocab_size, ends, last)
            sources += [place * beams + beam for beam in going]
            added += [ids[-1] if ids else 0 for _, ids in text.running]
        if last or all(text.done for text in texts):
            break
        rows, ids = torch.tensor(sources, device=device), torch.tensor(added, device=device)
        decoding.take(rows)
        decoding.append(ids)
        if seen is not None:
            seen.take(rows)
            seen.add(ids)
    return [text.ended[0][1] for text in texts]


def _advance(
    text: Text, scores: list[float], places: list[int], vocab_size: int, ends: Collection[int], last: bool
) -> list[int]:
    """Let a text's candidates, best first, end or go on; returns the beams that those come from which go on."""
    if text.done:
        return list(range(text.beams))
    going, running = [], []
    for rank, (score, place) in enumerate(zip(scores, places, strict=True)):
        beam, token = divmod(place, vocab_size)
        ids = [*text.running[beam][1], token]
        if token in ends or last:
            if rank < text.beams:
                text.end(score, ids)
        elif len(running) < text.beams:
            running.append((score, ids))
            going.append(beam)
    if not last:
        text.running = running
        text.settle()
    return going
