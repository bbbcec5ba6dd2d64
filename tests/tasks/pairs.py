"""Pairs to learn: words, and their first letters in the reverse order."""

from typing import Any

import pandas as pd

from pipeline.common.params import Finetune, Task
from pipeline.model.config import ModelConfig
from pipeline.tasks.sequence_to_sequence import SequenceToSequence
from pipeline.tokenization.tokenizer import Tokenizer
from pipeline.tokenization.training import train_bpe

WORDS = ("rot", "grün", "blau", "gelb", "weiß", "schwarz")
COLOURS = dict(zip(WORDS, ("red", "green", "blue", "yellow", "white", "black"), strict=True))
FINETUNE = Finetune(
    epochs=2, batch_size=4, max_tokens=24, validation_texts=50, dropout=0.0, label_smoothing=0.0, adapt="full"
)


def make_rows(texts_per_split: int = 24) -> pd.DataFrame:
    table = []
    for place, split in enumerate(("train", "validation", "test")):
        for number in range(texts_per_split):
            words = [WORDS[(place + number // (1 + 5 * step) + step) % 6] for step in range(1 + number % 3)]
            text = " ".join(words)
            table.append((f"{split}-{number}", text, " ".join(COLOURS[word] for word in words), split, "group"))
    return pd.DataFrame(table, columns=["id", "text", "target", "split", "group"])


def make_tokenizer(rows: pd.DataFrame) -> Tokenizer:
    return train_bpe([text * 20 for text in (*rows["text"], *rows["target"])], 320)


def make_config(tokenizer: Tokenizer, family: str, context: int = 40) -> ModelConfig:
    return ModelConfig(tokenizer.vocab_size, 32, 1, 2, 64, context, tied_embeddings=True, dropout=0.0, family=family)


def make_task(
    rows: pd.DataFrame, tokenizer: Tokenizer, config: ModelConfig, task: dict[str, Any] | None = None, **finetune: Any
) -> SequenceToSequence:
    chosen = {"labels_per_class": None, "max_target_tokens": 12, "beams": 3} | (task or {})
    settings = FINETUNE.model_copy(update=finetune)
    named = Task.model_validate({"kind": "sequence_to_sequence", "path": "pairs.jsonl"} | chosen)
    return SequenceToSequence(rows, "pairs.parquet", tokenizer, named, settings, config, seed=1)
