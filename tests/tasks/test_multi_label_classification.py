"""Any number of labels for each text: loss, weights, drawing, measuring, and the trained model."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score
from sklearn.utils.class_weight import compute_class_weight

from pipeline.common.errors import HallmarkError
from pipeline.common.label_sets import labels_to_json
from pipeline.common.params import Task
from pipeline.model.config import ModelConfig
from pipeline.tasks.classification import Classification
from pipeline.tasks.distillation import take_teacher
from pipeline.tasks.encoding import encode_rows
from pipeline.tasks.label_set_metrics import indicators
from pipeline.tasks.multi_label_classification import (
    MultiLabelClassification,
    draw_label_sets,
    label_sets,
    load_multi_label_classifier,
    multi_label_loss,
)
from pipeline.tasks.trained import save_trained
from pipeline.tokenization.tokenizer import Tokenizer
from tests.tasks.test_classification import FINETUNE, WORDS, config, random_classifier, rows, tokenizer

__all__ = ["config", "rows", "tokenizer"]  # fixtures


@pytest.fixture(scope="module")
def sets(rows: pd.DataFrame) -> pd.DataFrame:
    """Each text has its label, every second one `second`, too, and every third one none."""
    labels = [
        [] if number % 3 == 0 else [label, "second"] if number % 2 else [label]
        for number, label in enumerate(rows["label"])
    ]
    return rows.drop(columns="label").assign(labels=[labels_to_json(each) for each in labels])


def make_task(table: pd.DataFrame, tokenizer: Tokenizer, kind: type[Classification], **task: Any) -> Any:
    shape = ModelConfig(tokenizer.vocab_size, 16, 2, 2, 24, 48, tied_embeddings=False, dropout=0.0)
    settings = FINETUNE.model_copy(update={"validation_texts": 100})
    given = Task.model_validate({"kind": kind.kind, "path": "labels.csv", "labels_per_class": None} | task)
    return kind(table, "table.parquet", tokenizer, given, settings, shape, seed=1)


def test_the_loss_is_that_of_every_label_alone_and_filling_rows_change_nothing(config: ModelConfig) -> None:
    model, ids = random_classifier(config, classes=4), torch.randint(2, 200, (3, 8))
    goal = torch.tensor([[1.0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]])
    batch = {"input_ids": ids, "lengths": torch.tensor([8, 5, 2]), "labels": goal, "weights": torch.rand(3, 4)}
    loss, count = multi_label_loss(model, batch, label_smoothing=0.2)
    assert count == 12
    slow = torch.tensor(0.0)
    probability = model(ids, batch["lengths"]).sigmoid()
    for row in range(3):
        for place in range(4):
            yes = goal[row, place] * 0.8 + 0.1
            p = probability[row, place]
            slow = slow - batch["weights"][row, place] * (yes * p.log() + (1 - yes) * (1 - p).log())
    torch.testing.assert_close(loss, slow)
    filled = {name: torch.cat([value, torch.zeros_like(value[:2])]) for name, value in batch.items()}
    filled_loss, filled_count = multi_label_loss(model, filled, label_smoothing=0.2)
    torch.testing.assert_close(filled_loss, loss)
    assert filled_count == count


@pytest.mark.parametrize("kind", [Classification, MultiLabelClassification])
def test_balanced_weights_are_scikit_learns_and_their_mean_is_one(
    kind: type[Classification], rows: pd.DataFrame, sets: pd.DataFrame, tokenizer: Tokenizer
) -> None:
    table = (rows if kind is Classification else sets).drop(index=[1, 2, 3, 4])
    task = make_task(table, tokenizer, kind, class_weights="balanced")
    targets = task.targets(task.train_rows)
    weights = task.weights(targets)
    columns = [(targets, weights)] if kind is Classification else zip(targets.T, weights.T, strict=True)
    for column, found in columns:
        classes = np.unique(column.numpy())
        expected = compute_class_weight("balanced", classes=classes, y=column.numpy())
        wanted = dict(zip(classes.tolist(), expected.tolist(), strict=True))
        assert found.tolist() == pytest.approx([wanted[value] for value in column.tolist()])
        assert float(found.mean()) == pytest.approx(1.0)
    assert torch.equal(make_task(table, tokenizer, kind).weights(targets), torch.ones_like(weights))
    [batch], _ = next(task.batches())
    loss, _ = task.loss(task.model(), batch)
    doubled, _ = task.loss(task.model(), batch | {"weights": 0 * batch["weights"]})
    assert loss > 0 == doubled


def test_a_label_that_every_text_has_weighs_one_half(tokenizer: Tokenizer, sets: pd.DataFrame) -> None:
    table = sets.assign(labels=[labels_to_json(["always", f"odd{number % 2}"]) for number in range(len(sets))])
    task = make_task(table, tokenizer, MultiLabelClassification, class_weights="balanced")
    weights = task.weights(task.targets(task.train_rows))
    assert task.labels[0] == "always"
    assert weights[:, 0].tolist() == [0.5] * len(weights)


def test_a_class_of_three_rows_among_hundreds_is_learned_from(tokenizer: Tokenizer, rows: pd.DataFrame) -> None:
    many = pd.concat([rows.assign(id=rows["id"] + f"-{copy}") for copy in range(20)])
    few = many["label"].ne("tool") | many["split"].ne("train") | many["id"].isin(["tool-0-0", "tool-1-0", "tool-2-0"])
    task = make_task(many[few], tokenizer, Classification, class_weights="balanced")
    assert (task.train_rows["label"] == "tool").sum() == 3
    targets = task.targets(task.train_rows)
    weights = task.weights(targets)
    totals = [float(weights[targets == place].sum()) for place in range(3)]
    assert totals == pytest.approx([len(targets) / 3] * 3, rel=1e-5)


def test_texts_are_drawn_for_each_label_and_as_many_without_any(sets: pd.DataFrame) -> None:
    train = sets[sets["split"] == "train"]
    drawn, short = draw_label_sets(train, 2, seed=1)
    found = label_sets(drawn)
    assert all(sum(label in labels for labels in found) >= 2 for label in ["fruit", "second", "tool"])
    assert sum(not labels for labels in found) == 2
    assert short == {}
    more, short = draw_label_sets(train, 5, seed=1)
    assert set(drawn["id"]) <= set(more["id"])
    assert set(short) == set(WORDS)
    assert len(draw_label_sets(train, None, seed=1)[0]) == len(train)


def test_measuring_is_the_loss_and_figures_of_each_text_alone(
    sets: pd.DataFrame, tokenizer: Tokenizer, config: ModelConfig
) -> None:
    task, model = make_task(sets, tokenizer, MultiLabelClassification), random_classifier(config, classes=4)
    held_out = sets[sets["split"] == "validation"]
    truth, predicted, nats = indicators(label_sets(held_out), task.labels), [], []
    with torch.no_grad():
        found = task.measure(model, torch.device("cpu"))
        for ids, goal in zip(encode_rows(held_out["text"].tolist(), tokenizer, 40)[0], truth, strict=True):
            probabilities = model(torch.tensor([ids]), torch.tensor([len(ids)])).sigmoid()[0].numpy()
            predicted.append(probabilities >= 0.5)
            nats += (-np.log(np.where(goal, probabilities, 1 - probabilities))).tolist()
    assert found["loss"] == pytest.approx(np.mean(nats), rel=1e-4)
    assert found["subset_accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    for how in ("micro", "macro"):
        expected = f1_score(truth, np.array(predicted), average=how, zero_division=0)
        assert found[f"{how}_f1"] == pytest.approx(expected)


def test_the_saved_model_gives_the_labels_whose_probability_reaches_one_half(
    sets: pd.DataFrame, tokenizer: Tokenizer, config: ModelConfig, tmp_path: Path
) -> None:
    task = make_task(sets, tokenizer, MultiLabelClassification)
    assert task.config["kind"] == "multi_label_classification"
    save_trained(tmp_path / "model", random_classifier(config, classes=4), task.config, "float32", tokenizer)
    model, texts = load_multi_label_classifier(tmp_path / "model"), ["apple saw", "", "hammer"]
    probabilities = model.predict_probabilities(texts)
    assert probabilities.sum(axis=1) != pytest.approx(1, abs=1e-3)
    for row, labels in zip(probabilities, model.predict(texts), strict=True):
        assert labels == [label for label, value in zip(model.labels, row, strict=True) if value >= 0.5]


def test_what_cannot_be_learned_is_refused(sets: pd.DataFrame, tokenizer: Tokenizer, tmp_path: Path) -> None:
    table = sets.copy()
    table.loc[table["split"] == "test", "labels"] = '["unseen"]'
    with pytest.raises(HallmarkError, match="6 texts of test have the label 'unseen', which no training text has"):
        make_task(table, tokenizer, MultiLabelClassification)
    with pytest.raises(HallmarkError, match="no training row has a label: there is nothing to learn"):
        make_task(sets.assign(labels="[]"), tokenizer, MultiLabelClassification)
    with pytest.raises(HallmarkError, match="only a task of the kind classification can have a teacher"):
        take_teacher(make_task(sets, tokenizer, MultiLabelClassification), "teacher", "cpu", tmp_path)
