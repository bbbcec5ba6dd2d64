"""Hugging Face `Trainer` on published networks: pretraining of each family, and classification of padded texts."""

import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.arms.machine import Machine
from benchmarks.turns import Clock
from pipeline.model.config import ModelConfig
from pipeline.tasks.batches import pad_rows

NO_LABEL = -100  # transformers leaves it out of the loss
MASKED = 0.15


def published_language_model(config: ModelConfig, pad_id: int = 0) -> Any:
    """A network of random weights: GPT2LMHeadModel, BertForMaskedLM, T5ForConditionalGeneration ..."""
    import transformers

    from pipeline.model.interchange.architectures import ARCHITECTURES

    described = _published_config(config, pad_id)
    return getattr(transformers, ARCHITECTURES[described.model_type].language)(described)


def published_classifier(config: ModelConfig, classes: int, pad_id: int = 0) -> Any:
    """The same with a classification head of random weights: BertForSequenceClassification ..."""
    import transformers

    from pipeline.model.interchange.architectures import ARCHITECTURES

    described = _published_config(config, pad_id)
    described.num_labels = classes
    name = ARCHITECTURES[described.model_type].classifier
    assert name is not None, f"{described.model_type} has no classifier"
    return getattr(transformers, name)(described)


def _published_config(config: ModelConfig, pad_id: int) -> Any:
    import transformers

    from pipeline.model.interchange.settings import find_architecture, write_settings

    settings = write_settings(find_architecture(config), config, pad_id)
    settings |= {"bos_token_id": pad_id, "eos_token_id": pad_id}  # no default beyond a small vocabulary
    settings |= {"decoder_start_token_id": pad_id} if config.family == "encoder-decoder" else {}
    return transformers.AutoConfig.for_model(**settings)


def train(
    clock: Clock,
    model: Any,
    dataset: Any,
    collate: Callable[[list[Any]], dict[str, Tensor]],
    rows: int,
    machine: Machine,
    **arguments: Any,
) -> None:
    """Train until the clock ends it, in the main process, without logs and checkpoints.

    Args:
        clock: ticks at the start of each step.
        model: of transformers.
        dataset: has a length, and items that `collate` takes.
        collate: makes a batch of items.
        rows: items of a step.
        machine: what to train on.
        arguments: other TrainingArguments.
    """
    import transformers

    transformers.logging.set_verbosity_error()

    class Ticks(transformers.TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            clock.tick()

    with tempfile.TemporaryDirectory(prefix="hallmark-trainer-") as folder:
        chosen = transformers.TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=rows,
            num_train_epochs=10_000,
            bf16=machine.precision == torch.bfloat16,
            use_cpu=machine.device.type == "cpu",
            max_grad_norm=1.0,
            report_to=[],
            logging_strategy="no",
            save_strategy="no",
            disable_tqdm=True,
            remove_unused_columns=False,
            **arguments,
        )
        trainer = transformers.Trainer(
            model=model, args=chosen, train_dataset=dataset, data_collator=collate, callbacks=[Ticks()]
        )
        trainer.train()


class TokenWindows(torch.utils.data.Dataset[np.ndarray]):
    """Neighbouring windows of a row of tokens, int64 (length,)."""

    def __init__(self, tokens: np.ndarray, length: int) -> None:
        self.tokens, self.length = tokens, length

    def __len__(self) -> int:
        return len(self.tokens) // self.length

    def __getitem__(self, index: int) -> np.ndarray:
        return self.tokens[index * self.length : (index + 1) * self.length]


def same_labels(rows: list[np.ndarray]) -> dict[str, Tensor]:
    """Each token is predicted from those before it; the network shifts the labels itself."""
    ids_BT = torch.from_numpy(np.stack(rows))
    return {"input_ids": ids_BT, "labels": ids_BT}


def masked_labels(rows: list[np.ndarray]) -> dict[str, Tensor]:
    """15 % of the tokens are predicted. The mask is the token 0: for the speed it does not matter which."""
    ids_BT = torch.from_numpy(np.stack(rows))
    chosen_BT = torch.rand(ids_BT.shape) < MASKED
    return {"input_ids": ids_BT.masked_fill(chosen_BT, 0), "labels": ids_BT.masked_fill(~chosen_BT, NO_LABEL)}


def source_and_target(source_length: int) -> Callable[[list[np.ndarray]], dict[str, Tensor]]:
    """The first tokens of a window are the source, the others the target."""

    def collate(rows: list[np.ndarray]) -> dict[str, Tensor]:
        ids = torch.from_numpy(np.stack(rows))
        return {"input_ids": ids[:, :source_length], "labels": ids[:, source_length:].contiguous()}

    return collate


def padded(pad_id: int) -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
    """Texts ("input_ids", "label"), padded to the longest of the batch."""

    def collate(texts: list[dict[str, Any]]) -> dict[str, Tensor]:
        ids = [text["input_ids"] for text in texts]
        ids_BT, lengths_B = pad_rows(ids, len(ids), max(map(len, ids)), pad_id)
        return {
            "input_ids": ids_BT,
            "attention_mask": (torch.arange(ids_BT.size(1)) < lengths_B[:, None]).long(),
            "labels": torch.tensor([text["label"] for text in texts]),
        }

    return collate
