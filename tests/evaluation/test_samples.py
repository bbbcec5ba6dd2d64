"""What the report shows of the pretrained model's writing."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from pipeline.evaluation.report.samples import PROMPT_TOKENS, PROMPTS, write_samples
from pipeline.model.config import ModelConfig
from pipeline.model.transformer import Transformer
from pipeline.model.weights import named_weights, save_checkpoint_folder
from pipeline.tokenization.training import train_tokenizer

TINY = ModelConfig(
    vocab_size=293,
    hidden_size=16,
    num_layers=1,
    num_heads=2,
    intermediate_size=24,
    context_length=96,
    tied_embeddings=False,
    dropout=0.0,
)


def save(folder: Path, config: ModelConfig) -> None:
    torch.manual_seed(0)
    model = Transformer(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    save_checkpoint_folder(
        folder, named_weights(model), {"model": config.to_dict()}, train_tokenizer(["x"], "bytes", 293)
    )


def test_samples_begin_like_unseen_documents_and_depend_on_the_seed_alone(tmp_path: Path) -> None:
    rows = [{"text": f"document {place} " * 9, "split": "validation" if place % 2 else "train"} for place in range(12)]
    pd.DataFrame(rows).to_parquet(tmp_path / "documents.parquet")
    save(tmp_path / "model", TINY)
    found, again, other = (
        write_samples(tmp_path / "model", tmp_path / "documents.parquet", seed) for seed in (1, 1, 2)
    )
    assert found == again != other
    assert [sample["prompt"] for sample in found] == ["", *(f"document {place} docum" for place in (1, 5, 9))]
    assert len(found) == 1 + PROMPTS
    assert all(len(sample["prompt"]) <= PROMPT_TOKENS for sample in found)
    threads = torch.get_num_threads()
    save(tmp_path / "short", replace(TINY, context_length=8))
    assert all(len(s["prompt"]) <= 3 for s in write_samples(tmp_path / "short", tmp_path / "documents.parquet", 1))
    assert torch.get_num_threads() == threads


def test_an_encoder_writes_nothing(tmp_path: Path) -> None:
    pd.DataFrame({"text": ["x"], "split": ["validation"]}).to_parquet(tmp_path / "documents.parquet")
    save(tmp_path / "model", replace(TINY, family="encoder"))
    assert write_samples(tmp_path / "model", tmp_path / "documents.parquet", 1) == []
