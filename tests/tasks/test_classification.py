"""The classification task: network, loss, measuring, and a trained classifier that depends on the text alone."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy, log_softmax

from pipeline.common.errors import HallmarkError
from pipeline.common.files import read_json, sha256_folder, write_json
from pipeline.common.params import Finetune, Task
from pipeline.model.config import ModelConfig
from pipeline.tasks.classification import (
    Classification,
    TextClassifier,
    classification_loss,
    drop_tokens,
    load_classifier,
)
from pipeline.tasks.encoding import encode_rows
from pipeline.tasks.kinds import KINDS
from pipeline.tasks.trained import save_trained
from pipeline.tokenization.tokenizer import Tokenizer
from pipeline.tokenization.training import train_bpe

WORDS = {"fruit": "apple pear plum cherry", "tool": "hammer saw drill wrench", "语言": "中文 语言 文字 说话"}
FINETUNE = Finetune(epochs=2, batch_size=4, max_tokens=40, validation_texts=5, ngrams=False)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe([text * 20 for text in WORDS.values()], 320)


@pytest.fixture(scope="module")
def config(tokenizer: Tokenizer) -> ModelConfig:
    return ModelConfig(tokenizer.vocab_size, 16, 2, 2, 24, 48, tied_embeddings=False, dropout=0.0)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    splits = ["train"] * 6 + ["validation"] * 3 + ["test"] * 2
    table = [
        (f"{label}-{number}", " ".join(words.split()[: number % 4 + 1]) * (number + 1), label, split, "group")
        for label, words in WORDS.items()
        for number, split in enumerate(splits)
    ]
    return pd.DataFrame(table, columns=["id", "text", "label", "split", "group"])


def make_task(rows: pd.DataFrame, tokenizer: Tokenizer, labels_per_class: int | None = None, **changes: Any):
    task = Task(path="labels.csv", labels_per_class=labels_per_class)
    settings = FINETUNE.model_copy(update=changes)
    config = ModelConfig(tokenizer.vocab_size, 16, 2, 2, 24, 48, tied_embeddings=False, dropout=0.0)
    return Classification(rows, "table.parquet", tokenizer, task, settings, config, seed=1)


def random_classifier(config: ModelConfig, pooling: str = "mean", classes: int = 3) -> TextClassifier:
    torch.manual_seed(0)
    model = TextClassifier(config, classes, pooling)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_pooling_is_what_its_name_says_and_padding_changes_nothing(config: ModelConfig, pooling: str) -> None:
    model, ids = random_classifier(config, pooling), torch.randint(2, 200, (2, 9))
    ids[0, 5:] = 0
    lengths, states_BTD = torch.tensor([5, 9]), model.body.hidden_states(ids)
    slow = {
        "mean": [states_BTD[0, :5].mean(dim=0), states_BTD[1].mean(dim=0)],
        "first": [states_BTD[0, 0], states_BTD[1, 0]],
        "last": [states_BTD[0, 4], states_BTD[1, 8]],
    }
    expected = model.head(torch.stack(slow[pooling]))
    torch.testing.assert_close(model(ids, lengths), expected, atol=1e-5, rtol=1e-5)
    padded = torch.cat([ids, torch.zeros(2, 7, dtype=torch.int64)], dim=1)
    torch.testing.assert_close(model(padded, lengths), expected, atol=1e-5, rtol=1e-5)


def test_unknown_pooling_lists_the_allowed(config: ModelConfig) -> None:
    with pytest.raises(HallmarkError, match="unknown pooling 'max'; allowed: mean, first, last"):
        TextClassifier(config, 2, "max")


def test_the_body_has_no_head_for_tokens(config: ModelConfig) -> None:
    names = dict(TextClassifier(config, 2, "mean").named_parameters())
    assert not [name for name in names if "lm_head" in name]
    assert all(parameter.requires_grad for parameter in names.values())


def test_rows_that_fill_the_batch_change_neither_loss_nor_gradient(config: ModelConfig) -> None:
    model = random_classifier(config)
    ids, labels = torch.randint(2, 200, (3, 8)), torch.tensor([0, 2, 1])
    batch = {"input_ids": ids, "lengths": torch.tensor([8, 5, 2]), "labels": labels, "weights": torch.ones(3)}
    filled = {name: torch.cat([value, torch.zeros_like(value[:2])]) for name, value in batch.items()}
    results = []
    for each in (batch, filled):
        model.zero_grad()
        loss, count = classification_loss(model, each, label_smoothing=0.1)
        loss.backward()
        gradients = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
        results.append((loss, count, gradients))
    (loss, count, gradients), (filled_loss, filled_count, filled_gradients) = results
    assert count == filled_count == 3
    torch.testing.assert_close(loss, filled_loss)
    torch.testing.assert_close(gradients, filled_gradients, atol=1e-5, rtol=1e-4)


def test_label_smoothing_by_its_definition(config: ModelConfig) -> None:
    model, labels = random_classifier(config), torch.tensor([0, 2])
    batch = {"input_ids": torch.randint(2, 200, (2, 6)), "lengths": torch.tensor([6, 4]), "labels": labels}
    loss, _ = classification_loss(model, batch | {"weights": torch.ones(2)}, label_smoothing=0.3)
    target = torch.full((2, 3), 0.3 / 3)
    target[[0, 1], labels] += 0.7
    log_probabilities = log_softmax(model(batch["input_ids"], batch["lengths"]), dim=1)
    torch.testing.assert_close(loss, -(target * log_probabilities).sum())


def test_long_texts_are_cut_and_counted(tokenizer: Tokenizer) -> None:
    encoded, cut = encode_rows(["", "apple", "apple pear " * 50], tokenizer, 10)
    assert cut == 1
    assert encoded[0] == [tokenizer.bos_id]
    assert encoded[1] == [tokenizer.bos_id, *tokenizer.encode("apple")]
    assert len(encoded[2]) == 10


def test_the_task_counts_what_it_drew(rows: pd.DataFrame, tokenizer: Tokenizer) -> None:
    task = make_task(rows, tokenizer, labels_per_class=7)
    assert task.facts["train_texts"] == 18
    assert task.facts["classes_with_too_few_texts"] == dict.fromkeys(WORDS, 6)
    assert task.facts["validation_texts"] == FINETUNE.validation_texts
    assert task.facts["train_texts_cut"] > 0
    assert make_task(rows, tokenizer, labels_per_class=2).facts["train_texts"] == 6
    assert task.config == {
        "kind": "classification",
        "labels": sorted(WORDS),
        "pooling": "mean",
        "max_tokens": 40,
        "pairs": False,
    }
    assert KINDS[task.config["kind"]].prepare is Classification


def test_batches_hold_the_right_label_of_each_text(rows: pd.DataFrame, tokenizer: Tokenizer) -> None:
    task = make_task(rows, tokenizer)
    encoded, _ = encode_rows(rows["text"].tolist(), tokenizer, 40)
    label_of = {tuple(ids): label for ids, label in zip(encoded, rows["label"], strict=True)}
    for _ in range(task.batches().steps_per_epoch):
        [batch], _ = next(task.batches())
        columns = [batch[name] for name in ("input_ids", "lengths", "labels", "weights")]
        for ids, length, label, weight in zip(*columns, strict=True):
            assert weight == (length > 0)
            if length:
                assert label_of[tuple(ids[:length].tolist())] == task.labels[label]


def test_measuring_is_the_loss_and_figures_of_each_text_alone(
    rows: pd.DataFrame, tokenizer: Tokenizer, config: ModelConfig
) -> None:
    task, model = make_task(rows, tokenizer, validation_texts=100), random_classifier(config)
    with torch.no_grad():
        found = task.measure(model, torch.device("cpu"))
        held_out = rows[rows["split"] == "validation"]
        nats, right = [], []
        for ids, label in zip(encode_rows(held_out["text"].tolist(), tokenizer, 40)[0], held_out["label"], strict=True):
            logits = model(torch.tensor([ids]), torch.tensor([len(ids)]))
            nats.append(float(cross_entropy(logits, torch.tensor([task.labels.index(label)]))))
            right.append(task.labels[int(logits.argmax())] == label)
    assert found["loss"] == pytest.approx(np.mean(nats), rel=1e-5)
    assert found["accuracy"] == pytest.approx(np.mean(right))
    assert 0 <= found["macro_f1"] <= 1


def test_one_class_only_is_refused(rows: pd.DataFrame, tokenizer: Tokenizer) -> None:
    with pytest.raises(HallmarkError, match="every training row has the label 'fruit': there is nothing to tell apart"):
        make_task(rows[rows["label"] == "fruit"], tokenizer)


def test_labels_that_training_lacks_are_all_named(rows: pd.DataFrame, tokenizer: Tokenizer) -> None:
    table = rows.copy()
    table.loc[table["split"] == "validation", "label"] = "unheard"
    table.loc[table["split"] == "test", "label"] = "unseen"
    with pytest.raises(HallmarkError) as caught:
        make_task(table, tokenizer)
    assert "9 rows have the label 'unheard'" in str(caught.value)
    assert "6 rows have the label 'unseen'" in str(caught.value)


def test_more_tokens_than_the_context_are_refused_with_the_limit(rows: pd.DataFrame, tokenizer: Tokenizer) -> None:
    with pytest.raises(HallmarkError, match=r"params.yaml: finetune.max_tokens: 60 tokens .*context of 48\n.*to 48"):
        make_task(rows, tokenizer, max_tokens=60)


@pytest.fixture
def folder(tmp_path: Path, config: ModelConfig, tokenizer: Tokenizer, rows: pd.DataFrame) -> Path:
    task = make_task(rows, tokenizer)
    save_trained(tmp_path / "model", random_classifier(config), task.config, "float32", tokenizer)
    return tmp_path / "model"


@pytest.mark.usefixtures("own_threads")
def test_what_is_said_of_a_text_depends_on_nothing_but_the_text(folder: Path, rows: pd.DataFrame) -> None:
    classifier, texts = load_classifier(folder), rows["text"].tolist()
    together = classifier.predict_probabilities(texts)
    assert together.shape == (len(texts), 3)
    assert together.dtype == np.float32
    assert together.sum(axis=1) == pytest.approx(1, abs=1e-6)
    assert np.array_equal(classifier.predict_probabilities(texts[::-1])[::-1], together)
    alone = [classifier.predict_probabilities([text])[0] for text in texts]
    assert np.array_equal(np.stack(alone), together)
    torch.set_num_threads(3 - min(torch.get_num_threads(), 2))
    assert np.array_equal(classifier.predict_probabilities(texts), together)
    assert classifier.predict(texts[:2]) == [classifier.labels[place] for place in together[:2].argmax(axis=1)]


@pytest.mark.usefixtures("own_threads")
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_gradients_are_the_same_with_one_thread_and_two(config: ModelConfig, precision: torch.dtype) -> None:
    """In the default's shapes: the product that makes the head's gradient is one that MKL cuts, if it is let."""
    torch.manual_seed(1)
    model = TextClassifier(replace(config, hidden_size=256), classes=10, pooling="mean")
    ids_BT = torch.randint(0, config.vocab_size, (16, config.context_length))
    lengths_B = torch.randint(1, config.context_length, (16,))
    batch = {"input_ids": ids_BT, "lengths": lengths_B, "labels": torch.arange(16) % 10, "weights": torch.ones(16)}
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            model.zero_grad()
            loss, _ = classification_loss(model, batch)
            loss.backward()
        found.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    for name, alone in found[0].items():
        assert torch.equal(alone, found[1][name]), name


def test_the_saved_classifier_is_the_trained_model(folder: Path, config: ModelConfig, tokenizer: Tokenizer) -> None:
    ids = [tokenizer.bos_id, *tokenizer.encode("apple saw")]
    with torch.no_grad():
        expected = random_classifier(config)(torch.tensor([ids]), torch.tensor([len(ids)])).softmax(dim=1)
    found = load_classifier(folder).predict_probabilities(["apple saw"])
    assert found == pytest.approx(expected.numpy(), abs=1e-6)


def test_no_text_and_an_empty_text(folder: Path) -> None:
    classifier = load_classifier(folder)
    assert classifier.predict_probabilities([]).shape == (0, 3)
    assert classifier.predict([""])[0] in classifier.labels


def test_the_same_model_is_always_the_same_bytes(folder: Path, tmp_path: Path, config, tokenizer, rows) -> None:
    save_trained(tmp_path / "b", random_classifier(config), make_task(rows, tokenizer).config, "float32", tokenizer)
    assert sha256_folder(folder) == sha256_folder(tmp_path / "b")


def test_hand_edited_weights_and_a_foreign_tokenizer_are_refused(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file(weights | {"head.bias": weights["head.bias"] + 1}, folder / "model.safetensors")
    with pytest.raises(HallmarkError, match="these weights were changed after training"):
        load_classifier(folder)
    save_file(dict(sorted(weights.items())), folder / "model.safetensors")
    load_classifier(folder)
    train_bpe(["quite another text " * 20], 300).save(folder)
    with pytest.raises(HallmarkError, match="does not belong to this checkpoint"):
        load_classifier(folder)


def test_a_folder_of_another_kind_is_refused(folder: Path) -> None:
    config = read_json(folder / "config.json")
    write_json(folder / "config.json", {name: value for name, value in config.items() if name != "task"})
    with pytest.raises(HallmarkError, match=r"config.json: this model's task is None, not 'classification'"):
        load_classifier(folder)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=5), st.floats(0, 1))
def test_dropped_tokens_leave_the_others_in_order_behind_the_first(lengths: list[int], share: float) -> None:
    ids = torch.arange(1, 11).repeat(len(lengths), 1)
    dropped, left = drop_tokens(ids, torch.tensor(lengths), share)
    for row, length, kept in zip(dropped.tolist(), lengths, left.tolist(), strict=True):
        assert min(length, 1) <= kept <= length
        assert row[:kept] == sorted(row[:kept])
        assert set(row[:kept]) <= set(range(1, length + 1))
        assert row[:kept][:1] == [1][:length]
    untouched, same = drop_tokens(ids, torch.tensor(lengths), 0.0)
    assert torch.equal(untouched, ids)
    assert same.tolist() == lengths
