"""Pairs of texts: the network tells the two apart, the task and the trained model read both."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from pipeline.common.errors import HallmarkError
from pipeline.model.config import ModelConfig
from pipeline.tasks.classification import TextClassifier, drop_tokens, load_classifier
from pipeline.tasks.distillation import take_teacher
from pipeline.tasks.encoding import encode_rows
from pipeline.tasks.rows import texts_of
from pipeline.tasks.trained import save_trained, segments_of
from pipeline.tokenization.tokenizer import Tokenizer
from tests.tasks.test_classification import config, make_task, random_classifier, rows, tokenizer

__all__ = ["config", "rows", "tokenizer"]  # fixtures


@pytest.fixture(scope="module")
def pairs(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(pair=[f"saw pear {number}" for number in range(len(rows))])


def test_segments_change_behind_the_first_separator() -> None:
    ids = torch.tensor([[1, 7, 7, 3, 8, 3, 0], [1, 3, 9, 9, 9, 9, 9], [1, 9, 9, 9, 9, 9, 3]])
    assert segments_of(ids, 3).tolist() == [[0, 0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1, 1], [0] * 7]


def test_a_body_with_segments_is_told_which_text_a_token_is_of(config: ModelConfig) -> None:
    encoder = replace(config, family="encoder", segments=2, positions="learned")
    torch.manual_seed(0)
    model = TextClassifier(encoder, 3, "first", separator=3).eval()
    alone = TextClassifier(encoder, 3, "first").eval()
    alone.load_state_dict(model.state_dict())
    ids, lengths = torch.tensor([[1, 7, 3, 8, 9]]), torch.tensor([5])
    assert not torch.equal(model(ids, lengths), alone(ids, lengths))
    segments = model.body.embedding.segments
    assert segments is not None
    segments.weight.data[1] = segments.weight.data[0]
    alone.load_state_dict(model.state_dict())
    assert torch.equal(model(ids, lengths), alone(ids, lengths))


def test_the_separator_is_never_dropped() -> None:
    dropped, left = drop_tokens(torch.tensor([[1, 7, 3, 8, 9, 0]]), torch.tensor([5]), 1.0, separator=3)
    assert dropped[0, : int(left[0])].tolist() == [1, 3]


def test_batches_hold_both_texts(pairs: pd.DataFrame, tokenizer: Tokenizer) -> None:
    task = make_task(pairs, tokenizer)
    assert task.config["pairs"]
    encoded, _ = encode_rows(texts_of(pairs), tokenizer, 40)
    label_of = {tuple(ids): label for ids, label in zip(encoded, pairs["label"], strict=True)}
    [batch], _ = next(task.batches())
    for ids, length, label in zip(batch["input_ids"], batch["lengths"], batch["labels"], strict=True):
        if length:
            assert label_of[tuple(ids[:length].tolist())] == task.labels[label]
    loss, count = task.loss(task.model(), batch)
    assert loss > 0
    assert count == (batch["lengths"] > 0).sum()


def test_the_saved_model_reads_pairs_and_their_order_counts(
    pairs: pd.DataFrame, tokenizer: Tokenizer, config: ModelConfig, tmp_path: Path
) -> None:
    save_trained(
        tmp_path / "model", random_classifier(config), make_task(pairs, tokenizer).config, "float32", tokenizer
    )
    found = load_classifier(tmp_path / "model")
    assert found.reads_pairs
    asked = [("apple", "saw"), ("saw", "apple")]
    probabilities = found.predict_probabilities(asked)
    assert not (probabilities[0] == probabilities[1]).all()
    assert (found.predict_probabilities(asked[::-1])[::-1] == probabilities).all()
    assert found.predict_probabilities([]).shape == (0, 3)


def test_a_teacher_of_single_texts_teaches_no_pairs_and_one_of_pairs_does(
    pairs: pd.DataFrame, rows: pd.DataFrame, tokenizer: Tokenizer, config: ModelConfig, tmp_path: Path
) -> None:
    for name, table in (("single", rows), ("both", pairs)):
        task = make_task(table, tokenizer)
        save_trained(tmp_path / name, random_classifier(config), task.config, "float32", tokenizer)
    with pytest.raises(HallmarkError, match="the teacher reads single texts, and the task does not"):
        take_teacher(make_task(pairs, tokenizer), str(tmp_path / "single"), "cpu", tmp_path / "scratch1")
    (tmp_path / "scratch2").mkdir()
    task = make_task(pairs, tokenizer)
    told = take_teacher(task, str(tmp_path / "both"), "cpu", tmp_path / "scratch2")
    said = load_classifier(tmp_path / "both").predict(texts_of(task.train_rows))
    assert told["teacher_training_accuracy"] == (task.train_rows["label"] == said).mean()
