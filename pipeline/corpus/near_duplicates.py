"""Near-duplicate texts by MinHash and locality-sensitive hashing (Broder 1997; Leskovec et al., chapter 3)."""

import re
from collections.abc import Iterable

from rensa import RMinHash, RMinHashDeduplicator

SIMILARITY = 0.8  # Jaccard similarity of the word triples above which two texts count as one
PERMUTATIONS = 128
BANDS = 16  # of 8 rows: a pair at 0.8 is compared with probability 0.95, a pair at 0.5 with 0.06
SEED = 1

WORD = re.compile(r"\w+")


def first_of_their_kind(texts: Iterable[str]) -> list[bool]:
    """For each text in order, whether no text kept before it is a near-duplicate.

    Similarity is measured on triples of lower-case words, so case, punctuation and layout do not count. Give the texts
    to be kept first. The same texts in the same order always give the same answer.
    """
    sketches = RMinHash.from_token_sets([_word_triples(text) for text in texts], PERMUTATIONS, SEED)
    seen = RMinHashDeduplicator(SIMILARITY, PERMUTATIONS, use_lsh=True, num_bands=BANDS, seed=SEED)
    return [seen.add(str(position), sketch) for position, sketch in enumerate(sketches)]


def _word_triples(text: str) -> list[str]:
    words = WORD.findall(text.lower())
    if len(words) < 3:
        return [" ".join(words)]
    return [" ".join(triple) for triple in zip(words, words[1:], words[2:], strict=False)]
