"""How a text is continued."""

from dataclasses import dataclass

from pipeline.common.errors import Problems
from pipeline.tokenization.tokenizer import Tokenizer


@dataclass(frozen=True)
class GenerationSettings:
    """What decides a continuation. The default takes the likeliest token each time.

    Attributes:
        max_new_tokens: how many tokens are added at most.
        temperature: divides the logits before a token is drawn; 0 takes the likeliest instead.
        top_k: draw among this many likeliest tokens; None: among all.
        top_p: draw among the likeliest tokens that together have this probability (Holtzman et al. 2020,
            arXiv:1904.09751); None: among all.
        min_p: draw among tokens at least this fraction as likely as the likeliest (Nguyen et al. 2024,
            arXiv:2407.01082); None: among all.
        repetition_penalty: divides positive logits, and multiplies negative ones, of tokens that are there already,
            also in a decoder's prompt (Keskar et al. 2019, arXiv:1909.05858, section 4.1); 1 changes nothing.
        beams: texts kept side by side in beam search; 1: no search.
        length_penalty: beam search divides a text's log-probability by (its new tokens)^length_penalty.
        stop: a continuation ends before any of these strings.
        seed: of the draws; the text in row r of a batch is drawn by seed + r, whatever the other rows are.

    Raises:
        HallmarkError: values that cannot be, or that contradict one another, all at once.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    beams: int = 1
    length_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        problems = Problems("generation")
        for name, least in (("max_new_tokens", 1), ("top_k", 1), ("beams", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                problems.add(f"{name}: {value}; allowed: {least} or more")
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 1:
                problems.add(f"{name}: {value}; allowed: above 0, up to 1")
        if not 0 <= self.temperature < float("inf"):
            problems.add(f"temperature: {self.temperature}; allowed: 0 (no draw) or more")
        if not 0 < self.repetition_penalty < float("inf"):
            problems.add(f"repetition_penalty: {self.repetition_penalty}; allowed: above 0")
        if "" in self.stop:
            problems.add("stop: an empty string is everywhere")
        if not self.temperature:
            for name in ("top_k", "top_p", "min_p"):
                if getattr(self, name) is not None:
                    problems.add(f"{name}: {getattr(self, name)}; only read with a temperature above 0")
        if self.beams > 1 and self.temperature:
            problems.add(f"temperature: {self.temperature}; beam search draws nothing; allowed with beams: 0")
        if self.beams > 1 and self.stop:
            problems.add("stop: not with beams, whose texts are only known at the end")
        if self.beams == 1 and self.length_penalty != 1.0:
            problems.add(f"length_penalty: {self.length_penalty}; only read with beams above 1")
        problems.raise_if_any(fix="change these settings")


def end_ids(tokenizer: Tokenizer, family: str) -> frozenset[int]:
    """What ends a text: eos, or, in a decoder that learned documents one after another, where the next begins."""
    ends = (tokenizer.eos_id, tokenizer.bos_id if family == "decoder" else None)
    return frozenset(end for end in ends if end is not None)
