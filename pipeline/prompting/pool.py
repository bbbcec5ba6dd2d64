"""The labelled texts that demonstrations are chosen from, and what the model says of each.

Legend: N texts of the pool, Q queries, D hidden size.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from scipy.special import log_softmax

from pipeline.model.transformer import Transformer
from pipeline.prompting.asking import Labelled
from pipeline.prompting.demonstrations import rank_similar, take, take_diverse
from pipeline.prompting.influence import Example, gradient_products
from pipeline.prompting.scoring import Scorer
from pipeline.tasks.batches import pad_rows
from pipeline.tasks.classification import mean_vectors

ROWS = 16


class Pool:
    """Labelled texts in the order in which they were drawn, and what the model says of them, once it is asked for.

    Args:
        scorer: of the model.
        drawn: the texts.
        answers: the tokens of all label words.
        validation: examples whose loss the method `gradient` wants to lower.
    """

    def __init__(
        self, scorer: Scorer, drawn: Labelled, answers: Sequence[list[int]], validation: Sequence[Example]
    ) -> None:
        self.scorer, self.drawn, self.answers, self.validation = scorer, drawn, answers, validation

    def choose(self, method: str, queries_QD: np.ndarray, shots: int, balanced: bool) -> list[tuple[int, ...]]:
        """The places of the demonstrations for each query; only `similarity` looks at the query.

        Args:
            method: random: as drawn; similarity: nearest to the query; diversity: far from one another; easy, hard: by
                the model's loss of the right label among all labels, without demonstrations; gradient: by influence.
            queries_QD: `text_vectors` of the queries.
        """
        if method == "similarity":
            center_D = self.vectors.mean(axis=0)  # the vectors of a causal model all point the same way, or nearly
            rankings = rank_similar(queries_QD - center_D, self.vectors - center_D)
            return [tuple(take(ranking, self.drawn.labels, shots, balanced)) for ranking in rankings]
        if method == "diversity":
            chosen = take_diverse(self.vectors, self.drawn.labels, shots, balanced)
        else:
            chosen = take(self._ranking(method), self.drawn.labels, shots, balanced)
        return [tuple(chosen)] * len(queries_QD)

    def _ranking(self, method: str) -> np.ndarray:
        if method == "random":
            return np.arange(len(self.drawn.texts))
        if method == "gradient":
            return np.argsort(-self.influences, kind="stable")
        return np.argsort(self.losses if method == "easy" else -self.losses, kind="stable")

    @cached_property
    def vectors(self) -> np.ndarray:
        """float32 (N, D)."""
        return text_vectors(self.scorer.model, self.drawn.alone)

    @cached_property
    def losses(self) -> np.ndarray:
        """-log p(right label), among all labels and without demonstrations, in nats, float32 (N,)."""
        scores_NC = self.scorer.score([prompt for prompt, _ in self.drawn.examples], self.answers)
        right_N = [self.answers.index(answer) for _, answer in self.drawn.examples]
        return -log_softmax(scores_NC, axis=1)[np.arange(len(right_N)), right_N]

    @cached_property
    def influences(self) -> np.ndarray:
        """float32 (N,), see `gradient_products`."""
        return gradient_products(self.scorer.model, self.drawn.examples, self.validation)


@torch.inference_mode()
def text_vectors(model: Transformer, texts: Sequence[list[int]]) -> np.ndarray:
    """The mean of the token vectors after the last norm, of each text, float32 (N, D)."""
    device = model.embedding.tokens.weight.device
    vectors_ND = np.zeros((len(texts), model.config.hidden_size), dtype=np.float32)
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    for first in range(0, len(order), ROWS):
        some = order[first : first + ROWS]
        ids_BT, lengths_B = pad_rows([texts[n] for n in some], len(some), max(len(texts[n]) for n in some), 0)
        x_BTD = model.hidden_states(ids_BT.to(device)).float()
        vectors_ND[some] = mean_vectors(x_BTD, lengths_B.to(device)).cpu().numpy()
    return vectors_ND
