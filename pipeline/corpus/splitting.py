"""Which split a row belongs to: drawn from a hash, so that it depends on nothing but its own name and the seed."""

import hashlib
from collections.abc import Mapping, Sequence

TRAIN, VALIDATION, TEST = "train", "validation", "test"
DOCUMENT_SPLITS = (TRAIN, VALIDATION)
TASK_SPLITS = (TRAIN, VALIDATION, TEST)


def draw(seed: int, name: str) -> float:
    """A number in [0, 1), evenly spread over names, the same on every machine."""
    digest = hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def draw_split(seed: int, name: str, shares: Mapping[str, float]) -> str:
    """Draw a split for `name`; what `shares` leave of 1 is `train`."""
    position = draw(seed, name)
    for split, share in shares.items():
        if position < share:
            return split
        position -= share
    return TRAIN


def draw_document_splits(seed: int, names: Sequence[str], validation_share: float) -> list[str]:
    """Draw train or validation for each name; of two or more distinct names, each split gets at least one."""
    splits = [draw_split(seed, name, {VALIDATION: validation_share}) for name in names]
    if len(set(names)) > 1 and len(set(splits)) == 1:
        order = sorted(set(names), key=lambda name: draw(seed, name))
        lone, split = (order[0], VALIDATION) if splits[0] == TRAIN else (order[-1], TRAIN)
        splits = [split if name == lone else drawn for name, drawn in zip(names, splits, strict=True)]
    return splits
