"""Classifiers of n-grams: what they see of a text, how they learn, and what they say together with a network."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from pipeline.common.errors import HallmarkError
from pipeline.common.params import Compute, Task
from pipeline.common.processes import Interrupted
from pipeline.model.config import ModelConfig
from pipeline.model.interchange.exporting import export_model
from pipeline.model.weights import named_weights
from pipeline.tasks import ngrams
from pipeline.tasks.batches import pad_to_longest
from pipeline.tasks.classification import POOL_WEIGHTS, Classification, load_classifier
from pipeline.tasks.finetuning import FineTuned, fine_tune
from pipeline.tasks.multi_label_classification import MultiLabelClassification, load_multi_label_classifier
from pipeline.tasks.ngrams import (
    NgramExpert,
    fit_weights,
    key_of,
    most_common,
    ngram_keys,
    opinion_pool,
)
from pipeline.tasks.rows import texts_of
from pipeline.tasks.trained import save_trained
from pipeline.tokenization.tokenizer import Tokenizer
from tests.tasks.test_classification import (
    FINETUNE,
    config,
    make_task,
    random_classifier,
    rows,
    tokenizer,
)
from tests.tasks.test_multi_label_classification import sets

__all__ = ["config", "rows", "sets", "tokenizer"]  # fixtures

CPU = torch.device("cpu")
EAGER = Compute(device="cpu", precision="float32", compile="never")


def names(values: set[str]) -> list[int]:
    return sorted(key_of(value) for value in values)


def keys(text: Any, part: str) -> list[int]:
    return ngram_keys([text], part)[0].tolist()


def test_a_key_is_the_same_on_every_machine() -> None:
    assert [key_of(text) for text in ("apple", "电影", "\ud800")] == [
        -2328654269316264298,
        1093643015066529054,
        7497787021708494914,
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text("abC", min_size=1, max_size=8), max_size=6))
def test_the_ngrams_of_a_text_are_those_of_a_plain_loop(words: list[str]) -> None:
    expected = set(words)
    for place in range(1, len(words)):
        expected.add(words[place - 1] + " " + words[place])
    assert keys(" ".join(words), "words") == names(expected)
    inside = set()
    for word in words:
        marked = "<" + word + ">"
        for first in range(len(marked)):
            for last in range(first, len(marked)):
                if 3 <= last - first + 1 <= 6:
                    inside.add(marked[first : last + 1])
    assert keys(" ".join(words), "characters") == names(inside)


def test_signs_are_words_and_case_stays() -> None:
    assert keys("Good, good!", "words") == names({"Good", ",", "good", "!", "Good ,", ", good", "good !"})
    assert key_of("<!>") in keys("!", "characters")


def test_chinese_has_words_of_one_letter_and_longer_runs() -> None:
    assert keys("好电影", "words") == names({"好", "电", "影", "好 电", "电 影"})
    assert keys("好电影", "characters") == names(
        {"<好", "好电", "电影", "影>", "<好电", "好电影", "电影>", "<好电影", "好电影>"}
    )


@pytest.mark.parametrize("part", ngrams.PARTS)
def test_a_second_text_has_other_ngrams(part: str) -> None:
    assert set(keys(("red pear", "pear"), part)) > set(keys("red pear", part))
    assert not set(keys(("", "red pear"), part)) & set(keys("red pear", part))
    assert keys(("red", "pear"), part) != keys(("pear", "red"), part)
    assert keys("", part) == keys(("", " "), part) == []


def test_the_most_common_ngrams_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ngram_keys(["pear plum", "pear plum fig", "pear nut", ""], "words")
    all_of_them = {"pear", "plum", "fig", "nut", "pear plum", "plum fig", "pear nut"}
    assert most_common(found).tolist() == names(all_of_them)
    monkeypatch.setattr(ngrams, "MOST", 3)
    assert most_common(found).tolist() == names({"pear", "plum", "pear plum"})
    assert most_common([np.array([], dtype=np.int64)] * 2).tolist() == []


def make_expert(texts: list[str], part: str = "words", classes: int = 2) -> tuple[NgramExpert, torch.Tensor]:
    found = ngram_keys(texts, part)
    expert = NgramExpert(most_common(found), classes)
    return expert, pad_to_longest(expert.numbers(found), len(texts))


def test_an_expert_is_softmax_regression_on_vectors_of_length_one() -> None:
    """Logits and gradients by a matrix of all texts and n-grams; padding and empty texts have no part in them."""
    texts, truth = ["pear plum pear fig", "plum", "fig pear plum", ""], torch.tensor([0, 1, 1, 0])
    expert, numbers_BN = make_expert(texts)
    x_BF = torch.zeros(4, len(expert.keys))
    for row, some in enumerate(ngram_keys(texts, "words")):
        for column, key in enumerate(expert.keys.tolist()):
            x_BF[row, column] = float(key in some.tolist())
    x_BF = x_BF / x_BF.sum(dim=1, keepdim=True).clamp(min=1).sqrt()
    torch.manual_seed(0)
    expert.weight.data[1:].normal_()
    logits_BC = x_BF @ expert.weight.data[1:] + expert.bias.data
    torch.testing.assert_close(expert(numbers_BN), logits_BC)
    cross_entropy(expert(numbers_BN), truth, reduction="sum").backward()
    wrong_BC = logits_BC.softmax(dim=1) - torch.eye(2)[truth]
    assert expert.weight.grad is not None
    torch.testing.assert_close(expert.weight.grad[1:], x_BF.T @ wrong_BC)
    torch.testing.assert_close(expert.bias.grad, wrong_BC.sum(dim=0))
    assert not expert.weight.grad[0].any()
    assert expert.keys.grad is None


@pytest.mark.usefixtures("own_threads")
def test_gradients_of_an_expert_are_the_same_with_one_thread_and_two() -> None:
    torch.manual_seed(2)
    numbers_BN, truth_B = torch.randint(0, 5000, (64, 300)), torch.randint(0, 4, (64,))
    found: list[Any] = []
    for threads in (1, 2):
        expert = NgramExpert(torch.arange(5000), 4)
        torch.set_num_threads(threads)
        cross_entropy(expert(numbers_BN), truth_B).backward()
        found.append(expert.weight.grad)
    assert found[0].any()
    assert torch.equal(*found)


@pytest.mark.parametrize("part", ngrams.PARTS)
def test_an_expert_learns_from_chinese(part: str) -> None:
    texts = ["这部电影很好看", "电影好看极了", "演员很无聊", "故事太无聊了"]
    expert, numbers_BN = make_expert(texts, part)
    optimizer = torch.optim.AdamW([expert.weight, expert.bias], lr=0.05)
    for _ in range(20):
        optimizer.zero_grad()
        cross_entropy(expert(numbers_BN), torch.tensor([1, 1, 0, 0])).backward()
        optimizer.step()
    new = pad_to_longest(expert.numbers(ngram_keys(["真好看", "真无聊"], part)), 2)
    assert expert(new).argmax(dim=1).tolist() == [1, 0]


def test_the_pool_is_a_product_of_powers_of_probabilities() -> None:
    torch.manual_seed(0)
    logits, weights = [torch.randn(3, 4) * 5 for _ in range(3)], [0.5, 0.0, 1.5]
    product = logits[0].softmax(dim=1) ** 0.5 * logits[2].softmax(dim=1) ** 1.5
    expected = product / product.sum(dim=1, keepdim=True)
    torch.testing.assert_close(opinion_pool(logits, weights).softmax(dim=1), expected)
    yes, no = ((logits[0] * sign).sigmoid() ** 0.5 * (logits[2] * sign).sigmoid() ** 1.5 for sign in (1, -1))
    torch.testing.assert_close(opinion_pool(logits, weights).sigmoid(), yes / (yes + no))


@pytest.mark.parametrize("alone", [True, False], ids=["one label", "any number"])
def test_the_fitted_weights_are_those_of_a_plain_search(alone: bool) -> None:
    torch.manual_seed(0)
    truth_N = torch.randint(0, 3, (500,))
    right_NC = torch.eye(3)[truth_N]
    logits = [right_NC * size + torch.randn(500, 3) for size in (2.0, 0.5)]

    def loss(pooled_NC: torch.Tensor) -> torch.Tensor:
        if alone:
            return cross_entropy(pooled_NC, truth_N, reduction="sum")
        return binary_cross_entropy_with_logits(pooled_NC, right_NC.double(), reduction="sum")

    def penalized(weights: tuple[float, ...]) -> float:
        wide = [each.double() for each in logits]
        return float(loss(opinion_pool(wide, weights))) + sum((weight - 1) ** 2 for weight in weights) / 2

    found = tuple(fit_weights(logits, loss))
    least = penalized(found)
    for step in (0.3, 0.03):
        for first, second in ((step, 0), (-step, 0), (0, step), (0, -step), (step, -step), (step, step)):
            assert penalized((found[0] + first, found[1] + second)) > least
    assert found[0] > found[1]


def test_few_texts_hold_the_weights_near_one() -> None:
    """A single text that all get right asks for endless weights."""
    sure = [torch.tensor([[9.0, -9.0]])] * 3
    assert fit_weights(sure, lambda pooled: cross_entropy(pooled, torch.tensor([0]))) == [1.0, 1.0, 1.0]


def train(task: Any, scratch: Path) -> FineTuned:
    def ignore(*_: Any) -> None:
        return None

    return fine_tune(
        task,
        None,
        task.body_config,
        task.settings,
        EAGER,
        seed=1,
        name="kind",
        scratch=scratch,
        checkpoint_every=1000,
        announce=ignore,
        report=ignore,
    )


def test_a_trained_classifier_answers_by_all_its_parts_and_so_does_the_saved_one(
    rows: pd.DataFrame, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    task = make_task(rows, tokenizer, ngrams=True, ngram_learning_rate=0.05, validation_texts=100)
    trained = train(task, tmp_path / "scratch")
    model = trained.model.eval()
    assert list(trained.tuned) == POOL_WEIGHTS
    assert trained.tuned.items() <= task.config.items()
    save_trained(tmp_path / "model", model, task.config, "float32", tokenizer)
    loaded, texts = load_classifier(tmp_path / "model"), [*rows["text"], "", "plum pear 文字", "unheard"]
    weights = [*trained.tuned.values()]
    expected = []
    with torch.no_grad():
        for text in texts:
            ids = [tokenizer.bos_id, *tokenizer.encode(text)][:40]
            own = model.head(model.body.hidden_states(torch.tensor([ids])).mean(dim=1))[0]
            experts = [
                expert(pad_to_longest(expert.numbers(ngram_keys([text], part)), 1))[0]
                for part, expert in zip(ngrams.PARTS, model.experts, strict=True)
            ]
            expected.append(opinion_pool([own, *experts], weights).softmax(dim=0))
    found = loaded.predict_probabilities(texts)
    np.testing.assert_allclose(found, torch.stack(expected).numpy(), atol=1e-5)
    assert np.array_equal(loaded.predict_probabilities(texts[::-1])[::-1], found)
    assert all(expert.weight[1:].any() and not expert.weight[0].any() for expert in loaded.model.experts)
    with pytest.raises(HallmarkError, match=r"finetune.ngrams: no stock form"):
        export_model(tmp_path / "model", tmp_path / "stock")


class StoppedOnce(Classification):
    """Its training is interrupted in its first validation."""

    stopped = False

    def measure(self, model: Any, device: torch.device) -> dict[str, float]:
        if not self.stopped:
            self.stopped = True
            raise Interrupted(15)
        return super().measure(model, device)


def test_a_training_that_was_cut_off_ends_in_the_same_bits(
    rows: pd.DataFrame, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    whole = train(make_task(rows, tokenizer, ngrams=True), tmp_path / "whole")
    cut: Any = make_task(rows, tokenizer, ngrams=True)
    cut.__class__ = StoppedOnce
    with pytest.raises(Interrupted):
        train(cut, tmp_path / "cut")
    resumed = train(make_task(rows, tokenizer, ngrams=True), tmp_path / "cut")
    expected, found = named_weights(whole.model), named_weights(resumed.model)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert resumed.tuned == whole.tuned


def test_the_weights_are_fitted_to_the_validation_texts(rows: pd.DataFrame, tokenizer: Tokenizer) -> None:
    task = make_task(rows, tokenizer, ngrams=True, validation_texts=100)
    model = task.model().eval()
    texts, truth = texts_of(rows), task.targets(rows)
    optimizer = torch.optim.AdamW([weight for weight in model.experts.parameters() if weight.requires_grad], lr=0.1)
    for part, expert in zip(ngrams.PARTS, model.experts, strict=True):
        cross_entropy(expert(pad_to_longest(expert.numbers(ngram_keys(texts, part)), len(texts))), truth).backward()
    optimizer.step()
    with torch.no_grad():
        before = task.measure(model, CPU)["loss"]
        tuned = task.tune(model, CPU)
        assert task.measure(model, CPU)["loss"] < before
    assert list(tuned.values()) == model.weights
    assert min(tuned["weight_words"], tuned["weight_characters"]) > 1.2  # after one step they are less sure than right


def test_without_ngrams_nothing_is_beside_the_network(
    rows: pd.DataFrame, tokenizer: Tokenizer, config: ModelConfig, tmp_path: Path
) -> None:
    plain, more = make_task(rows, tokenizer), make_task(rows, tokenizer, ngrams=True)
    torch.manual_seed(0)
    without = named_weights(plain.model())
    torch.manual_seed(0)
    beside = named_weights(more.model())
    assert beside.keys() - without.keys() == {
        f"experts.{number}.{name}" for number in (0, 1) for name in ("keys", "weight", "bias")
    }
    assert all(torch.equal(beside[name], without[name]) for name in without)
    assert plain.tune(plain.model(), CPU) == {}
    [batch], _ = next(plain.batches())
    assert sorted(batch) == ["input_ids", "labels", "lengths", "weights"]
    save_trained(tmp_path / "model", random_classifier(config), plain.config, "float32", tokenizer)
    assert not [name for name in load_file(tmp_path / "model" / "model.safetensors") if "experts" in name]
    known = {f"ngrams.{part}": len(one.keys) for part, one in zip(ngrams.PARTS, more.experts, strict=True)}
    assert {name: value for name, value in more.facts.items() if name not in plain.facts} == known


def test_adapters_leave_the_experts_free_to_learn(rows: pd.DataFrame, tokenizer: Tokenizer, tmp_path: Path) -> None:
    trained = train(make_task(rows, tokenizer, ngrams=True, adapt="head"), tmp_path)
    assert all(expert.weight.any() for expert in trained.model.experts)
    assert not any(weight.requires_grad for weight in trained.model.body.parameters())


def test_pairs_learn_and_answer(rows: pd.DataFrame, tokenizer: Tokenizer, tmp_path: Path) -> None:
    paired = rows.assign(pair=rows["text"].str[:5])
    task = make_task(paired, tokenizer, ngrams=True)
    trained = train(task, tmp_path / "scratch")
    save_trained(tmp_path / "model", trained.model, task.config, "float32", tokenizer)
    found = load_classifier(tmp_path / "model").predict_probabilities(texts_of(paired))
    assert found.sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_labels_that_are_questions_of_their_own_learn_so_too(
    sets: pd.DataFrame, tokenizer: Tokenizer, config: ModelConfig, tmp_path: Path
) -> None:
    task = MultiLabelClassification(
        sets,
        "table.parquet",
        tokenizer,
        Task(kind="multi_label_classification", path="labels.csv", labels_per_class=None),
        FINETUNE.model_copy(update={"ngrams": True, "ngram_learning_rate": 0.05}),
        config,
        seed=1,
    )
    trained = train(task, tmp_path / "scratch")
    save_trained(tmp_path / "model", trained.model, task.config, "float32", tokenizer)
    found = load_multi_label_classifier(tmp_path / "model").predict_probabilities(texts_of(sets))
    assert ((found > 0) & (found < 1)).all()
    assert list(trained.tuned) == POOL_WEIGHTS
    assert all(expert.weight.any() for expert in trained.model.experts)
