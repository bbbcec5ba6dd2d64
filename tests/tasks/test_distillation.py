"""A teacher: the loss by its definition, what it says beside the right texts, and what is refused."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import kl_div

from pipeline.common.errors import HallmarkError
from pipeline.model.config import ModelConfig
from pipeline.tasks.classification import (
    classification_loss,
    distance_to_teacher,
    load_classifier,
)
from pipeline.tasks.distillation import take_teacher
from pipeline.tasks.trained import save_trained
from pipeline.tokenization.tokenizer import Tokenizer
from pipeline.tokenization.training import train_bpe
from tests.tasks.test_classification import WORDS, config, make_task, random_classifier, rows, tokenizer

__all__ = ["config", "rows", "tokenizer"]  # fixtures


@settings(deadline=None)
@given(st.floats(0.5, 20), st.integers(0, 1000))
def test_the_distance_is_that_of_both_softened_by_the_temperature(temperature: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    student_BC, teacher_BC = (3 * torch.randn(4, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    found_B = distance_to_teacher(student_BC, teacher_BC.softmax(dim=1), temperature)
    student, goal = ((logits_BC / temperature).log_softmax(dim=1) for logits_BC in (student_BC, teacher_BC))
    slow_B = temperature**2 * kl_div(student, goal, reduction="none", log_target=True).sum(dim=1)
    torch.testing.assert_close(found_B, slow_B)
    same_B = distance_to_teacher(teacher_BC, teacher_BC.softmax(dim=1), temperature)
    torch.testing.assert_close(same_B, torch.zeros_like(same_B))


def test_a_sure_teacher_and_rows_that_fill_the_batch_give_numbers() -> None:
    logits_BC = torch.randn(2, 3, requires_grad=True)
    found_B = distance_to_teacher(logits_BC, torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]), 2.0)
    assert found_B[0] > 0
    assert found_B[1] == 0
    found_B.sum().backward()
    assert logits_BC.grad is not None
    assert logits_BC.grad.isfinite().all()


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_loss_is_shared_between_label_and_teacher(config: ModelConfig, weight: float) -> None:
    model, teacher_BC = random_classifier(config), torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    batch = {"input_ids": torch.randint(2, 200, (2, 6)), "lengths": torch.tensor([6, 4])}
    batch |= {"labels": torch.tensor([0, 1]), "weights": torch.ones(2)}
    alone, _ = classification_loss(model, batch, 0.1)
    found, count = classification_loss(model, batch | {"teacher": teacher_BC}, 0.1, weight, 3.0)
    far = distance_to_teacher(model(batch["input_ids"], batch["lengths"]), teacher_BC, 3.0).sum()
    torch.testing.assert_close(found, (1 - weight) * alone + weight * far)
    assert count == 2


@pytest.fixture
def teacher(tmp_path: Path, config: ModelConfig) -> Path:
    """Another network, another tokenizer, and the labels in another order."""
    other = train_bpe([text * 9 for text in WORDS.values()], 300)
    model = random_classifier(replace(config, vocab_size=other.vocab_size, hidden_size=24, num_layers=1))
    task = {"kind": "classification", "labels": sorted(WORDS)[::-1], "pooling": "mean", "max_tokens": 30}
    save_trained(tmp_path / "teacher", model, task, "float32", other)
    return tmp_path / "teacher"


def test_every_text_learns_from_what_the_teacher_says_of_it(
    tmp_path: Path, teacher: Path, rows: pd.DataFrame, tokenizer: Tokenizer
) -> None:
    task = make_task(rows, tokenizer, labels_per_class=4)
    told = take_teacher(task, str(teacher), "cpu", tmp_path)
    expected = load_classifier(teacher)
    said = expected.predict_probabilities(task.train_rows["text"].tolist())[:, ::-1]
    of_text = {
        tuple(tokenizer.encode(text)[:39]): torch.tensor(row.copy())
        for text, row in zip(task.train_rows["text"], said, strict=True)
    }
    seen = 0
    for _ in range(task.batches().steps_per_epoch):
        [batch], _ = next(task.batches())
        for ids, length, row in zip(batch["input_ids"], batch["lengths"], batch["teacher"], strict=True):
            if length:
                assert torch.equal(row, of_text[tuple(ids[1:length].tolist())])
                seen += 1
            else:
                assert not row.any()
    assert seen == 12
    right = sum(
        expected.predict([text]) == [label]
        for text, label in zip(task.train_rows["text"], task.train_rows["label"], strict=True)
    )
    assert told["teacher_training_accuracy"] == right / 12


def test_a_training_that_goes_on_takes_the_same_answers_and_no_other_teacher(
    tmp_path: Path, teacher: Path, rows: pd.DataFrame, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = take_teacher(make_task(rows, tokenizer), str(teacher), "cpu", tmp_path)
    monkeypatch.setattr("pipeline.tasks.distillation.load_classifier", None)  # it is not asked again
    assert take_teacher(make_task(rows, tokenizer), str(teacher), "cpu", tmp_path) == first
    kept = tmp_path / f"teacher-{first['teacher']}.safetensors"
    kept.rename(tmp_path / "teacher-0123456789ab.safetensors")
    with pytest.raises(HallmarkError, match=r"had the teacher 0123456789ab, and this is .*\n.*to start over"):
        take_teacher(make_task(rows, tokenizer), str(teacher), "cpu", tmp_path)


def test_a_teacher_of_other_labels_is_refused(
    tmp_path: Path, teacher: Path, rows: pd.DataFrame, tokenizer: Tokenizer
) -> None:
    others = rows.assign(label=rows["label"].replace("tool", "engine"))
    with pytest.raises(HallmarkError, match=r"it lacks \['engine'\], and has \['tool'\] beside them"):
        take_teacher(make_task(others, tokenizer), str(teacher), "cpu", tmp_path)


def test_a_teacher_among_the_outputs_of_the_build_is_refused(
    tmp_path: Path, rows: pd.DataFrame, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HallmarkError, match=r"would change under it\n  next: cp -r models/finetune/big \.\./teacher"):
        take_teacher(make_task(rows, tokenizer), "models/finetune/big", "cpu", tmp_path)
