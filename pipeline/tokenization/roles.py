"""Special tokens and what they are for, in our own tokenizers and in those of published models."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

PAD, BOS, EOS, SEP, MASK, UNK = "<|pad|>", "<|bos|>", "<|eos|>", "<|sep|>", "<|mask|>", "<|unk|>"
SENTINELS = tuple(f"<|span-{number}|>" for number in range(32))
SPECIAL_TOKENS = (PAD, BOS, EOS, SEP, MASK, *SENTINELS)  # their ids in our own tokenizers are their places here

# The names by which each role is known, those that decide first.
FAMILIAR = {
    "pad": (PAD, "[PAD]", "<pad>"),
    "bos": (BOS, "[CLS]", "<s>", "<bos>", "<|begin_of_text|>", "<|endoftext|>"),
    "eos": (EOS, "[SEP]", "</s>", "<eos>", "<|im_end|>", "<|end_of_text|>", "<|endoftext|>"),
    "sep": (SEP, "[SEP]", "</s>"),
    "mask": (MASK, "[MASK]", "<mask>"),
    "unk": (UNK, "[UNK]", "<unk>"),
}
SENTINEL = re.compile(r"<\|span-(\d+)\|>|<extra_id_(\d+)>")


@dataclass(frozen=True)
class Roles:
    """The id of each role, None where a tokenizer lacks it; `sentinels` in the order of their numbers."""

    pad: int | None
    bos: int | None
    eos: int | None
    sep: int | None
    mask: int | None
    unk: int | None
    sentinels: tuple[int, ...]

    @property
    def ids(self) -> set[int]:
        single = (self.pad, self.bos, self.eos, self.sep, self.mask, self.unk)
        return {place for place in single if place is not None} | set(self.sentinels)


def find_roles(vocabulary: Mapping[str, int]) -> Roles:
    """Find each role by its familiar names.

    Without a pad token, eos pads (GPT-2, Llama). Without a bos token, pad begins a document, since T5's decoder begins
    with it; without both, eos.
    """
    found = {
        role: next((vocabulary[name] for name in names if name in vocabulary), None) for role, names in FAMILIAR.items()
    }
    if found["bos"] is None:
        found["bos"] = found["eos"] if found["pad"] is None else found["pad"]
    if found["pad"] is None:
        found["pad"] = found["eos"]
    numbered = [(match, place) for name, place in vocabulary.items() if (match := SENTINEL.fullmatch(name))]
    sentinels = sorted((int(match[1] or match[2]), place) for match, place in numbered)
    return Roles(**found, sentinels=tuple(place for _, place in sentinels))


def is_ours(vocabulary: Mapping[str, int]) -> bool:
    """Whether a vocabulary was learned here: its first two ids are our pad and bos."""
    return (vocabulary.get(PAD), vocabulary.get(BOS)) == (0, 1)
