"""What each method takes from a pool, against what the model says of every text alone."""

import numpy as np
import pytest
import torch

from benchmarks.prompting import score_one_by_one
from pipeline.prompting.asking import Labelled
from pipeline.prompting.demonstrations import rank_similar, take, take_diverse
from pipeline.prompting.influence import Example, gradient_products
from pipeline.prompting.pool import Pool, text_vectors
from pipeline.prompting.scoring import Scorer
from tests.model.test_parts import tiny_model

ANSWERS = [[3], [4, 5], [30]]
TEXTS = [[1, 5, 6], [1, 7], [1, 8, 9, 10], [1, 11, 12], [1, 13, 14, 15, 16], [1, 17]]
LABELS = ["a", "b", "c", "a", "b", "c"]
EXAMPLES: list[Example] = [(text, ANSWERS["abc".index(label)]) for text, label in zip(TEXTS, LABELS, strict=True)]
QUERIES = [[1, 5, 7], [1, 20, 21, 22]]


@pytest.fixture
def pool() -> Pool:
    drawn = Labelled(list("012345"), [""] * 6, LABELS, 0, TEXTS, EXAMPLES)
    return Pool(Scorer(tiny_model()), drawn, ANSWERS, EXAMPLES[:2])


def vectors_one_by_one(texts: list[list[int]]) -> np.ndarray:
    with torch.inference_mode():
        return np.stack([tiny_model().hidden_states(torch.tensor([ids]))[0].mean(dim=0).numpy() for ids in texts])


def test_vectors_are_means_over_the_tokens_of_each_text_alone() -> None:
    np.testing.assert_allclose(text_vectors(tiny_model(), TEXTS), vectors_one_by_one(TEXTS), rtol=1e-4, atol=1e-5)


def test_losses_are_those_of_the_right_label_among_all(pool: Pool) -> None:
    scores = score_one_by_one(tiny_model(), TEXTS, ANSWERS).astype(np.float64)
    each = [
        -np.log(np.exp(row["abc".index(label)]) / np.exp(row).sum()) for row, label in zip(scores, LABELS, strict=True)
    ]
    np.testing.assert_allclose(pool.losses, each, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("balanced", [False, True])
def test_every_method_takes_by_its_rule(pool: Pool, balanced: bool) -> None:
    vectors, queries = vectors_one_by_one(TEXTS), vectors_one_by_one(QUERIES)
    losses = pool.losses
    rankings = {
        "random": list(range(6)),
        "easy": sorted(range(6), key=lambda place: losses[place]),
        "hard": sorted(range(6), key=lambda place: -losses[place]),
        "gradient": np.argsort(-gradient_products(tiny_model(), EXAMPLES, EXAMPLES[:2])),
    }
    expected = {name: [tuple(take(ranking, LABELS, 4, balanced))] * 2 for name, ranking in rankings.items()}
    expected["diversity"] = [tuple(take_diverse(vectors, LABELS, 4, balanced))] * 2
    near = rank_similar(queries - vectors.mean(axis=0), vectors - vectors.mean(axis=0))
    expected["similarity"] = [tuple(take(ranking, LABELS, 4, balanced)) for ranking in near]
    assert {name: pool.choose(name, queries, 4, balanced) for name in expected} == expected
