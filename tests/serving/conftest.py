"""A fine-tuned classifier of toy size, as `finetune` leaves it: random weights serve as well as any."""

from pathlib import Path

import pytest
import torch

from pipeline.common.params import Model
from pipeline.model.config import derive_config
from pipeline.tasks.classification import KIND, TextClassifier
from pipeline.tasks.trained import save_trained
from pipeline.tokenization.training import train_bpe

LABELS = ["email", "logging", "语言"]
TEXTS = [f"the {word} of a message number {number}" for number, word in enumerate(["head", "level", "语言", ""] * 5)]


def make_classifier(folder: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = train_bpe(iter(TEXTS * 3), 300)
    sizes = Model(depth=1, hidden_size=32, num_heads=2, intermediate_size=64, context_length=64)
    config, _ = derive_config(sizes, tokenizer.vocab_size)
    model = TextClassifier(config, len(LABELS), "mean")
    torch.nn.init.normal_(model.head.weight)  # so that not every text gets the same label
    task = {"kind": KIND, "labels": LABELS, "pooling": "mean", "max_tokens": 48}
    save_trained(folder, model, task, "float32", tokenizer)
    return folder


@pytest.fixture(scope="session")
def classifier_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_classifier(tmp_path_factory.mktemp("finetuned") / "topic")
