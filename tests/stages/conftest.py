"""A folder as the stages before `finetune` leave it: labelled rows and a tiny pretrained model."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from pipeline.common.layout import PRETRAINED, clean_task
from pipeline.common.params import Params
from pipeline.common.tables import write_table
from pipeline.model.config import ModelConfig
from pipeline.model.transformer import Transformer
from pipeline.model.weights import named_weights, save_checkpoint_folder
from pipeline.stages.door import Stage
from pipeline.tasks.batches import Batch
from pipeline.tasks.classification import Classification
from pipeline.tokenization.training import train_bpe
from pipeline.tracking.journal import Journal
from tests.tasks.test_classification import WORDS

MakeStage = Callable[..., Stage]
FINETUNE = {"epochs": 4, "batch_size": 8, "max_tokens": 40, "validation_texts": 12, "dropout": 0.3, "patience": 2}


class StoppedError(Exception):
    """Stands for a kill between two steps."""


def stop_training(patch: pytest.MonkeyPatch, after: int, kind: type[Any] = Classification) -> None:
    """Let a task raise StoppedError instead of giving the loss of the step behind `after`."""
    whole, calls = kind.loss, 0

    def cut_off(self: Any, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        if calls > after:
            raise StoppedError
        return whole(self, model, batch)

    patch.setattr(kind, "loss", cut_off)


@pytest.fixture
def make_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeStage:
    """Makes stages of the task `kind`, in a working directory of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HALLMARK_HOME", str(tmp_path / ".hallmark"))
    monkeypatch.setattr("pipeline.training.runtime.matmul_flops_per_second", lambda runtime: 1e12)

    def make(
        name: str,
        labels_per_class: int | None = 6,
        key: str = "0" * 64,
        teacher: str | None = None,
        task: Mapping[str, object] = {},
        **finetune: object,
    ) -> Stage:
        described = {"path": "labels.csv", "labels_per_class": labels_per_class, "teacher": teacher, **task}
        params = Params.model_validate(
            {
                "source": {"kind": "files"},
                "compute": {"device": "cpu", "precision": "float32", "compile": "never"},
                "finetune": FINETUNE | finetune,
                "tasks": {"kind": described},
                "evaluate": {"bootstrap_samples": 50},
            }
        )
        return Stage(name, key, {}, params, Journal(key))

    return make


@pytest.fixture
def labelled(make_stage: MakeStage) -> pd.DataFrame:
    """The task's rows, written; beside them a pretrained model that knows nothing."""
    splits = ["train"] * 8 + ["validation"] * 4 + ["test"] * 6
    table = [
        (f"{label}-{number}", " ".join(words.split()[: number % 4 + 1]) * (number + 1), label, split, "group")
        for label, words in WORDS.items()
        for number, split in enumerate(splits)
    ]
    rows = pd.DataFrame(table, columns=["id", "text", "label", "split", "group"])
    write_table(clean_task("kind"), rows)
    tokenizer = train_bpe([text * 20 for text in WORDS.values()], 320)
    torch.manual_seed(3)
    config = ModelConfig(tokenizer.vocab_size, 16, 2, 2, 24, 48, tied_embeddings=False, dropout=0.1)
    save_checkpoint_folder(PRETRAINED, named_weights(Transformer(config)), {"model": config.to_dict()}, tokenizer)
    return rows
