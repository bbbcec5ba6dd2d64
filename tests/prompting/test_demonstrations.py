"""Every choice of demonstrations against its rule, written out slowly."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.prompting.demonstrations import rank_similar, shuffle, take, take_diverse

LABELS = st.lists(st.sampled_from("abc"), min_size=1, max_size=9)


@settings(deadline=None)
@given(labels=LABELS, shots=st.integers(0, 11), seed=st.integers(0, 99))
def test_take_goes_down_the_ranking(labels: list[str], shots: int, seed: int) -> None:
    ranking = np.random.default_rng(seed).permutation(len(labels))
    assert take(ranking, labels, shots, balanced=False) == ranking[:shots].tolist()
    taken = take(ranking, labels, shots, balanced=True)
    assert len(set(taken)) == len(taken) == min(shots, len(labels))
    for number, place in enumerate(taken):
        before = taken[:number]
        counts = Counter(labels[other] for other in before)
        left = [other for other in ranking if other not in before]
        fewest = min(counts[labels[other]] for other in left)
        assert place == next(other for other in left if counts[labels[other]] == fewest)


@settings(deadline=None)
@given(labels=LABELS, shots=st.integers(1, 9), seed=st.integers(0, 99))
def test_balanced_labels_come_equally_often_as_far_as_they_last(labels: list[str], shots: int, seed: int) -> None:
    taken = take(np.random.default_rng(seed).permutation(len(labels)), labels, shots, balanced=True)
    counts, whole = Counter(labels[place] for place in taken), Counter(labels)
    for one in whole:
        for other in whole:
            assert counts[one] + 1 >= counts[other] or counts[one] == whole[one]


@settings(deadline=None)
@given(labels=LABELS, shots=st.integers(1, 9), seed=st.integers(0, 99), balanced=st.booleans())
def test_diverse_texts_are_taken_farthest_first(labels: list[str], shots: int, seed: int, balanced: bool) -> None:
    points = np.random.default_rng(seed).integers(0, 3, (len(labels), 2)).astype(float)  # with ties
    taken = take_diverse(points, labels, shots, balanced)
    mean = [sum(column) / len(points) for column in points.T]
    expected: list[int] = []
    for _ in range(min(shots, len(labels))):
        best, best_distance = -1, -np.inf
        counts = Counter(labels[other] for other in expected)
        left = [place for place in range(len(labels)) if place not in expected]
        fewest = min(counts[labels[place]] for place in left)
        for place in left:
            if balanced and counts[labels[place]] != fewest:
                continue
            to = [points[other] for other in expected]
            distance = (
                min(np.linalg.norm(points[place] - other) for other in to)
                if to
                else -np.linalg.norm(points[place] - mean)
            )
            if distance > best_distance:
                best, best_distance = place, distance
        expected.append(best)
    assert taken == expected


@settings(deadline=None)
@given(seed=st.integers(0, 99))
def test_similar_texts_come_by_their_cosine(seed: int) -> None:
    generator = np.random.default_rng(seed)
    queries, pool = generator.integers(-2, 3, (3, 4)).astype(float), generator.integers(-2, 3, (6, 4)).astype(float)
    found = rank_similar(queries, pool)

    def cosine(one: np.ndarray, other: np.ndarray) -> float:
        lengths = np.sqrt((one**2).sum()) * np.sqrt((other**2).sum())
        return round(float(one @ other / lengths), 9) if lengths else 0.0

    for query, ranking in zip(queries, found, strict=True):
        cosines = [cosine(query, pool[place]) for place in ranking]
        assert cosines == sorted(cosines, reverse=True)
        assert sorted(ranking) == list(range(6))


def test_the_order_follows_from_seed_and_number_alone() -> None:
    chosen = [7, 3, 5, 1, 2]
    orders = [tuple(shuffle(chosen, seed, order)) for seed in (1, 2) for order in (0, 1, 2)]
    assert all(sorted(order) == sorted(chosen) for order in orders)
    assert len(set(orders)) > 3
    assert orders[0] == tuple(shuffle(chosen, 1, 0))
    assert shuffle([], 1, 0) == []
