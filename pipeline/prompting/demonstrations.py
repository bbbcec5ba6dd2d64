"""Which labelled texts stand before the query, and in which order.

A method ranks the pool, best first, and `take` goes down the ranking. Diversity ranks anew after each text taken.

Legend: N texts of the pool, Q queries, D dimensions.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np


def take(ranking: Sequence[int] | np.ndarray, labels: Sequence[str], shots: int, balanced: bool) -> list[int]:
    """The first `shots` places of a ranking.

    Args:
        ranking: places in the pool, best first.
        labels: of the pool, (N,).
        shots: how many; fewer if the pool is smaller.
        balanced: each time take the best text among the labels that were taken least, of those that have one left.
    """
    left = [int(place) for place in ranking]
    return _take_one_by_one(len(left), labels, shots, balanced, lambda free, _: next(p for p in left if p in free))


def take_diverse(vectors_ND: np.ndarray, labels: Sequence[str], shots: int, balanced: bool) -> list[int]:
    """Farthest-first traversal (Gonzalez 1985): begin with the text that is nearest to the pool's mean; then each time
    take the one whose nearest taken text is farthest away (Euclidean). The first of equals; `balanced` as in `take`.
    """
    from_mean_N = np.linalg.norm(vectors_ND - vectors_ND.mean(axis=0), axis=1)

    def best(free: set[int], taken: list[int]) -> int:
        if not taken:
            return min(sorted(free), key=lambda place: from_mean_N[place])
        apart_TN = np.linalg.norm(vectors_ND[taken][:, None] - vectors_ND[None], axis=2)
        nearest_N = apart_TN.min(axis=0)
        return max(sorted(free), key=lambda place: nearest_N[place])

    return _take_one_by_one(len(vectors_ND), labels, shots, balanced, best)


def _take_one_by_one(
    count: int, labels: Sequence[str], shots: int, balanced: bool, best: Callable[[set[int], list[int]], int]
) -> list[int]:
    taken: list[int] = []
    left = set(range(count))
    while left and len(taken) < shots:
        free = left
        if balanced:
            seen = Counter(labels[place] for place in taken)
            least = min(seen[labels[place]] for place in left)
            free = {place for place in left if seen[labels[place]] == least}
        taken.append(best(free, taken))
        left = left - {taken[-1]}
    return taken


def rank_similar(queries_QD: np.ndarray, vectors_ND: np.ndarray) -> np.ndarray:
    """The pool by falling cosine to each query, int64 (Q, N), the first of equals first (Liu et al. 2022,
    arXiv:2101.06804)."""
    cosines_QN = _unit(queries_QD) @ _unit(vectors_ND).T
    return np.argsort(-cosines_QN, axis=1, kind="stable")


def _unit(vectors_ND: np.ndarray) -> np.ndarray:
    return vectors_ND / np.maximum(np.linalg.norm(vectors_ND, axis=1, keepdims=True), 1e-12)


def shuffle(chosen: Sequence[int], seed: int, order: int) -> list[int]:
    """The demonstrations in the order number `order` of this seed, the last one next to the query."""
    return [chosen[place] for place in np.random.default_rng([seed, order]).permutation(len(chosen))]
