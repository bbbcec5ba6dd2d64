"""Classification with any number of labels for each text: each label is a question of its own, answered by yes or no.

The network is that of `pipeline.tasks.classification`; loss, decoding and figures are others.

Legend: N texts, B rows of a batch, C labels.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from pipeline.common.label_sets import labels_from_json
from pipeline.tasks.batches import Batch
from pipeline.tasks.classification import (
    Classification,
    Classifier,
    TextClassifier,
    balanced_weights,
    count_rows,
    network_inputs,
    read_classifier,
)
from pipeline.tasks.label_set_metrics import count_label_sets, indicators, label_set_figures
from pipeline.tasks.rows import Text, draw_by_labels, in_drawn_order, labels_of_training

KIND = "multi_label_classification"
THRESHOLD = 0.5  # a label is given from this probability on


def multi_label_loss(model: TextClassifier, batch: Batch, label_smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """The binary cross-entropy of every label of every row in nats, summed by their weights, and the number of labels.

    Smoothing moves half of `label_smoothing` from yes to no, and from no to yes. Network and experts have a loss each.
    """
    goal_BC = batch["labels"] * (1 - label_smoothing) + label_smoothing / 2
    first, *others = (
        binary_cross_entropy_with_logits(logits_BC, goal_BC, reduction="none")
        for logits_BC in model.each(*network_inputs(batch))
    )
    nats_BC = sum(others, start=first)
    return (nats_BC * batch["weights"]).sum(), count_rows(batch) * nats_BC.size(1)


class MultiLabelClassification(Classification):
    """One task of this kind, ready to be trained: see `Classification`.

    Raises:
        HallmarkError: a split without rows, no label, or a label that training has no row of.
    """

    kind = KIND

    def draw(self, rows: pd.DataFrame, per_class: int | None, seed: int) -> tuple[pd.DataFrame, dict[str, int]]:
        return draw_label_sets(rows, per_class, seed)

    def known_labels(self, rows: pd.DataFrame, where: str) -> list[str]:
        return known_set_labels(rows, where)

    def targets(self, rows: pd.DataFrame) -> Tensor:
        """Which labels each row has, float32 (N, C), 1 or 0."""
        return torch.from_numpy(indicators(label_sets(rows), self.labels)).float()

    def weights(self, targets: Tensor) -> Tensor:
        """float32 (N, C); balanced: yes and no weigh the same for each label, over all texts."""
        if not self.balanced:
            return torch.ones(targets.shape)
        yes_C = targets.sum(dim=0).numpy()
        weights_C2 = np.array([balanced_weights(np.array([len(targets) - yes, yes])) for yes in yes_C])
        no_C, yes_C = torch.from_numpy(weights_C2).float().T
        return torch.where(targets == 1, yes_C, no_C)

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        return multi_label_loss(model, self.shortened(batch), self.settings.label_smoothing)

    def measure(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Validation loss (without smoothing), subset accuracy, micro- and macro-F1; in eval mode without gradients."""
        logits, truth = (torch.cat(parts) for parts in zip(*self.answers(model, device), strict=True))
        predicted_NC = (logits.sigmoid() >= THRESHOLD).cpu().numpy()
        counts_NK = count_label_sets(truth.bool().cpu().numpy(), predicted_NC)
        figures = label_set_figures(counts_NK.sum(axis=0), len(counts_NK))
        nats = float(self.nats(logits, truth))
        return {"loss": nats / truth.numel()} | {
            name: float(figures[name]) for name in ("subset_accuracy", "micro_f1", "macro_f1")
        }

    def nats(self, logits_NC: Tensor, targets: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(logits_NC, targets.to(logits_NC.dtype), reduction="sum")


def label_sets(rows: pd.DataFrame) -> list[list[str]]:
    """The labels of each row."""
    return [labels_from_json(content) for content in rows["labels"]]


def known_set_labels(rows: pd.DataFrame, where: str) -> list[str]:
    """The labels that training knows, sorted. Raises HallmarkError: see `pipeline.tasks.rows.labels_of_training`."""
    return labels_of_training(rows, label_sets(rows), where, learned="label", owner="text")


def draw_label_sets(rows: pd.DataFrame, texts_per_label: int | None, seed: int) -> tuple[pd.DataFrame, dict[str, int]]:
    """Draw `texts_per_label` texts of each label: see `pipeline.tasks.rows.draw_by_labels`."""
    drawn = in_drawn_order(rows, seed)
    return draw_by_labels(drawn, [set(labels) for labels in label_sets(drawn)], texts_per_label)


def load_multi_label_classifier(folder: Path | str, device: str = "cpu") -> "MultiLabelClassifier":
    """Read a folder that `save_trained` wrote. Raises HallmarkError: see `read_classifier`."""
    return MultiLabelClassifier(*read_classifier(folder, KIND, device))


class MultiLabelClassifier(Classifier):
    """A trained classifier that gives each text those labels whose probability reaches `THRESHOLD`."""

    def probabilities(self, logits_BC: Tensor) -> Tensor:
        return logits_BC.sigmoid()

    def predict(self, texts: Sequence[Text]) -> list[list[str]]:
        """The labels of each text or pair, perhaps none."""
        return self.choose(self.predict_probabilities(texts))

    def choose(self, probabilities_NC: np.ndarray) -> list[list[str]]:
        return [
            [label for label, chosen in zip(self.labels, row, strict=True) if chosen]
            for row in probabilities_NC >= THRESHOLD
        ]
