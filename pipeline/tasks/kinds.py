"""The kinds of downstream task, and what each of them gives to the training."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.model.accounting import body_flops_per_token
from pipeline.model.config import ModelConfig
from pipeline.model.transformer import Transformer
from pipeline.tasks.assistant import load_assistant
from pipeline.tasks.batches import Batch, LengthBuckets
from pipeline.tasks.classification import Classification, load_classifier
from pipeline.tasks.dialogue import Dialogue
from pipeline.tasks.multi_label_classification import MultiLabelClassification, load_multi_label_classifier
from pipeline.tasks.question_answering import QuestionAnswering, load_answerer
from pipeline.tasks.sequence_to_sequence import SequenceToSequence, flops_per_token
from pipeline.tasks.text_writer import load_writer
from pipeline.tasks.token_classification import TokenClassification, load_token_labeller


class TaskModel(Protocol):
    """A network with a pretrained body and a head of its own; one that keeps the body's head has an empty one."""

    body: Transformer
    head: nn.Module


class FinetuneTask(Protocol):
    """One task, ready to be trained. A new kind of task is a module with such a class, and an entry in `KINDS`."""

    best_metric: str  # of `measure`; the weights with its highest value are kept
    config: dict[str, Any]  # goes into config.json as "task": all that predicting needs beside the network
    facts: dict[str, Any]  # what was drawn, cut and counted; printed and recorded

    def model(self) -> Any:
        """A `TaskModel` with random weights."""
        ...

    def batches(self) -> LengthBuckets:
        """The endless training batches."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """The summed loss, and the number of labels that it is over."""
        ...

    def measure(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Figures on the validation split."""
        ...


@dataclass(frozen=True)
class Kind:
    """What a kind of task gives to the stages.

    Attributes:
        prepare: makes a `FinetuneTask` of rows and settings.
        load: reads the folder of a trained model, onto a device; it answers to `predict(texts)`,
            or `predict(questions, contexts)`.
        flops_per_token: of training, forward and backward, per token of "input_ids".
        tune: what of predicting is chosen on the validation split, once the weights are: (task, network, device) to
            entries for the task's `config`, which `measure` heeds. None: there is no such thing.
    """

    prepare: Callable[..., FinetuneTask]
    load: Callable[[Path | str, str], Any]
    flops_per_token: Callable[[ModelConfig], int] = body_flops_per_token
    tune: Callable[[Any, nn.Module, torch.device], dict[str, float]] | None = None


KINDS = {
    "classification": Kind(Classification, load_classifier, tune=Classification.tune),
    "multi_label_classification": Kind(
        MultiLabelClassification, load_multi_label_classifier, tune=MultiLabelClassification.tune
    ),
    "token_classification": Kind(TokenClassification, load_token_labeller),
    "question_answering": Kind(QuestionAnswering, load_answerer, tune=QuestionAnswering.tune),
    "sequence_to_sequence": Kind(SequenceToSequence, load_writer, flops_per_token),
    "dialogue": Kind(Dialogue, load_assistant),
}
