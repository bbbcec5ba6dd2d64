"""Linear classifiers of n-grams, beside a network: one of words and word pairs, one of the characters inside words.

From few texts such counts tell more than a network finds in them (Wang and Manning 2012, "Baselines and Bigrams"). Case
stays as the text has it, since labels may hang on it; what lies behind a first letter is alike anyhow.

Legend: B rows of a batch, N n-grams of a row, F known n-grams, C classes.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from pipeline.common.scripts import UNSPACED, WORD
from pipeline.tasks.rows import Text

HAS_UNSPACED = re.compile(f"[{UNSPACED}]")
RUN = re.compile(r"\w+|[^\w\s]")
SIZES = range(3, 7)  # characters of an n-gram, the marks of a word's ends among them
UNSPACED_SIZES = range(2, 5)  # of runs without spaces between words, which are short there
SECOND = "\0"  # before the n-grams of a second text, which are others
MOST = 2**18  # n-grams that a classifier knows: those that the most texts have


def key_of(ngram: str) -> int:
    """A name of 64 bits, the same on every machine."""
    return int.from_bytes(
        blake2b(ngram.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little", signed=True
    )


def word_keys(text: str, mark: str = "") -> set[int]:
    """Of each word, each sign, and each two of them in a row; a letter of Chinese or Japanese is a word."""
    words = WORD.findall(text)
    return {key_of(mark + word) for word in words} | {
        key_of(f"{mark}{first} {second}") for first, second in pairwise(words)
    }


def character_keys(text: str, mark: str = "") -> set[int]:
    """Of all 3 to 6 characters in a row (2 to 4 without spaces) inside each run of letters, its ends marked."""
    return {key for run in set(RUN.findall(text)) for key in _keys_inside(mark, run)}


@lru_cache(maxsize=2**15)  # texts share most of their words
def _keys_inside(mark: str, run: str) -> frozenset[int]:
    marked, sizes = f"<{run}>", UNSPACED_SIZES if HAS_UNSPACED.search(run) else SIZES
    return frozenset(key_of(mark + marked[i : i + n]) for n in sizes for i in range(len(marked) - n + 1))


PARTS: dict[str, Callable[[str, str], set[int]]] = {"words": word_keys, "characters": character_keys}


def ngram_keys(texts: Sequence[Text], part: str) -> list[np.ndarray]:
    """The keys of the different n-grams of each text or pair, ascending, int64.

    Args:
        part: of `PARTS`.
    """
    find = PARTS[part]
    found = (find(text, "") if isinstance(text, str) else find(text[0], "") | find(text[1], SECOND) for text in texts)
    return [np.array(sorted(keys), dtype=np.int64) for keys in found]


def most_common(keys: Sequence[np.ndarray]) -> Tensor:
    """The `MOST` keys that the most texts have, ascending, int64 (F,).

    Those that one text alone has are among them: without them, two experts had 0.813 of SST-2 right instead of 0.817.
    """
    found, counts = np.unique(np.concatenate(keys), return_counts=True)
    return torch.from_numpy(np.sort(found[np.argsort(-counts, kind="stable")[:MOST]]))


class NgramExpert(nn.Module):
    """A linear classifier of the n-grams that a text has; each text has the length 1, however many it has.

    The keys are a parameter that does not learn, so that they are saved with the weights; a checkpoint has what learns.

    Args:
        keys_F: ascending.
        classes: C.
    """

    def __init__(self, keys_F: Tensor, classes: int) -> None:
        super().__init__()
        self.keys = nn.Parameter(keys_F, requires_grad=False)
        self.weight = nn.Parameter(torch.zeros(1 + len(keys_F), classes))  # row 0 is that of padding
        self.bias = nn.Parameter(torch.zeros(classes))

    def numbers(self, keys: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The rows of `weight` that belong to the keys of each text; unknown ones are left out."""
        known_F = np.append(self.keys.detach().cpu().numpy(), 0)  # never asked for; where all others end
        found = [np.searchsorted(known_F[:-1], some) for some in keys]
        return [1 + places[known_F[places] == some] for places, some in zip(found, keys, strict=True)]

    def forward(self, numbers_BN: Tensor) -> Tensor:
        """`numbers`, padded with 0, to logits_BC, float32; a sum of few numbers in one order, on any device."""
        with torch.autocast(numbers_BN.device.type, enabled=False):
            sums_BC = embedding_bag(numbers_BN, self.weight, mode="sum", padding_idx=0)
            counts_B1 = (numbers_BN > 0).sum(dim=1, keepdim=True)
            return sums_BC * counts_B1.clamp(min=1).rsqrt() + self.bias


Loss = Callable[[Tensor], Tensor]


def opinion_pool(logits: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The logits of all classifiers together, (B, C): each one's times its weight, added up.

    That is the logarithmic opinion pool: a product of their probabilities, each to the power of its weight (Heskes
    1998, "Selecting weighting factors in logarithmic opinion pools"). A weight over 1 sharpens.
    """
    first, *others = (weight * each_BC for weight, each_BC in zip(weights, logits, strict=True))
    return sum(others, start=first)


def fit_weights(logits: Sequence[Tensor], loss: Loss) -> list[float]:
    """The weights of `opinion_pool` with the smallest loss, to three places; the problem is convex.

    Args:
        logits: of each classifier, of texts that it did not learn from.
        loss: of pooled logits, float64, in nats, summed over the texts.

    Few texts hold the weights near 1, by the penalty (w - 1)^2 / 2 each: as if they were drawn from N(1, 1).
    """
    parts = [each.detach().double() for each in logits]
    weights = torch.ones(len(parts), dtype=torch.float64, device=parts[0].device, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        with torch.enable_grad():
            penalized = loss(opinion_pool(parts, weights.unbind())) + (weights - 1).square().sum() / 2  # type: ignore[arg-type]
            penalized.backward()
        return penalized

    optimizer.step(closure)
    return [round(weight, 3) for weight in weights.tolist()]
