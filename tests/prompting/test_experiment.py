"""A whole experiment on tiny real input: what is asked of which texts, what is refused, and what figures say."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score

from benchmarks.prompting import score_one_by_one
from pipeline.common.errors import HallmarkError
from pipeline.common.params import Evaluate, Prompting, Task
from pipeline.model.config import ModelConfig
from pipeline.model.transformer import Transformer
from pipeline.prompting.calibration import WITHOUT_CONTENT, contextual_prior, log_probabilities
from pipeline.prompting.experiment import Prompted, Run, prompt_task
from pipeline.prompting.figures import measure
from pipeline.prompting.page import describe_refusal, figure_table, sentences, verdict
from pipeline.prompting.templates import cut_texts
from pipeline.tasks.rows import draw_labels, in_drawn_order
from pipeline.tokenization.tokenizer import Tokenizer
from pipeline.tokenization.training import train_bpe

WORDS = {"fruit": "apple pear plum cherry", "tool": "hammer saw drill wrench", "sky": "cloud star moon rain"}
SPLITS = ["train"] * 5 + ["validation"] * 2 + ["test"] * 4
TEMPLATE = "{text}\nkind: {label}\n"
SETTINGS = {"template": TEMPLATE, "shots": [0, 2], "seeds": [1, 2], "orders": 2, "text_tokens": 4}


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    table = [
        (f"{label}-{number}", " ".join(words.split()[: number % 4 + 1]), label, split)
        for label, words in WORDS.items()
        for number, split in enumerate(SPLITS)
    ]
    return pd.DataFrame(table, columns=["id", "text", "label", "split"])


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe([f"{text}\nkind: {label}\n" * 20 for label, text in WORDS.items()], 380)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Transformer:
    torch.manual_seed(1)
    model = Transformer(ModelConfig(tokenizer.vocab_size, 16, 2, 2, 24, 64, tied_embeddings=False, dropout=0.0))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture
def ask(rows: pd.DataFrame, model: Transformer, tokenizer: Tokenizer) -> Any:
    def prompt(**changes: Any) -> Prompted:
        settings = Prompting.model_validate(SETTINGS | changes)
        task = Task(path="labels.csv", labels_per_class=4)
        return prompt_task(rows, "labels", model, tokenizer, task=task, settings=settings, seed=5)

    return prompt


@pytest.mark.parametrize("calibration", ["contextual", "pmi", "none"])
def test_answers_are_those_of_a_plain_loop(
    ask: Any, rows: pd.DataFrame, model: Transformer, tokenizer: Tokenizer, calibration: str
) -> None:
    """Random demonstrations, worked out from the rows: the first of the seed's draw, shuffled by the seed."""
    found = ask(calibration=calibration, methods=["random"], balanced=False)
    labels, test = sorted(WORDS), in_drawn_order(rows[rows["split"] == "test"], 5)
    assert (found.labels, found.ids, found.truth) == (labels, test["id"].tolist(), test["label"].tolist())
    answers = [tokenizer.encode(f" {label}") for label in labels]
    assert [(run.shots, run.seed, run.order) for run in found.runs] == [
        (0, 1, 0), (2, 1, 0), (2, 1, 1), (2, 2, 0), (2, 2, 1)
    ]  # fmt: skip

    def score(texts: list[str]) -> np.ndarray:
        return score_one_by_one(model, [[tokenizer.bos_id, *tokenizer.encode(text)] for text in texts], answers)

    for run in found.runs:
        drawn, _ = draw_labels(rows[rows["split"] == "train"], 4, run.seed)
        order = np.random.default_rng([run.seed, run.order]).permutation(run.shots)
        chosen = drawn.iloc[order]
        begun = "".join(f"{text}\nkind: {label}\n" for text, label in zip(chosen["text"], chosen["label"], strict=True))
        scores = score([f"{begun}{text}\nkind:" for text in test["text"]])
        free = score([f"{begun}{text}\nkind:" for text in WITHOUT_CONTENT])
        prior = {"contextual": contextual_prior(free[None]), "pmi": score(["\nkind:"]), "none": 0.0}[calibration]
        assert run.uncalibrated == [labels[place] for place in scores.argmax(axis=1)]
        assert run.predicted == [labels[place] for place in log_probabilities(scores, prior).argmax(axis=1)]


@pytest.mark.parametrize("calibration", ["contextual", "pmi"])
def test_pairs_are_asked_about_as_in_a_plain_loop(
    rows: pd.DataFrame, model: Transformer, tokenizer: Tokenizer, calibration: str
) -> None:
    pairs = rows.assign(pair=rows["text"].tolist()[::-1])
    template = "{text}? {pair}.\nkind: {label}\n"
    changes = {"template": template, "calibration": calibration, "balanced": False, "shots": [0, 1], "seeds": [1]}
    changes |= {"methods": ["random", "similarity", "gradient"], "orders": 1}
    settings = Prompting.model_validate(SETTINGS | changes)
    task = Task(path="pairs.csv", pair_column="pair", labels_per_class=4)
    found = prompt_task(pairs, "labels", model, tokenizer, task=task, settings=settings, seed=5)
    assert not found.refusals
    assert {run.method for run in found.runs} == {"zero_shot", *settings.methods}
    labels, test = sorted(WORDS), in_drawn_order(pairs[pairs["split"] == "test"], 5)
    answers = [tokenizer.encode(f" {label}") for label in labels]
    [random] = [run for run in found.runs if (run.method, run.order) == ("random", 0)]
    first = draw_labels(pairs[pairs["split"] == "train"], 4, 1)[0].iloc[0]

    def score(asked: list[tuple[str, str]], before: str) -> np.ndarray:
        written = [before + f"{text}? {pair}.\nkind:" for text, pair in asked]
        return score_one_by_one(model, [[tokenizer.bos_id, *tokenizer.encode(text)] for text in written], answers)

    def kept(row: Any) -> tuple[str, str]:
        [[text, pair]], _ = cut_texts([(row["text"], row["pair"])], tokenizer, 4)
        return text, pair

    asked = [kept(row) for _, row in test.iterrows()]
    text, pair = kept(first)
    for run, before in ((found.runs[0], ""), (random, f"{text}? {pair}.\nkind: {first['label']}\n")):
        scores = score(asked, before)
        free = score([(name, name) for name in WITHOUT_CONTENT], before)
        prior = {"contextual": contextual_prior(free[None]), "pmi": score([("", "")], "")}[calibration]
        assert run.uncalibrated == [labels[place] for place in scores.argmax(axis=1)]
        assert run.predicted == [labels[place] for place in log_probabilities(scores, prior).argmax(axis=1)]


def test_every_method_is_run_and_the_same_again(ask: Any) -> None:
    found = ask()
    assert len(found.runs) == 1 + 6 * 2 * 2
    assert not found.refusals
    assert found.facts["test_texts"] == 12
    assert found.facts["pool_texts"] == 12
    table = found.predictions()
    assert len(table) == len(found.runs) * 12
    assert ask().predictions().equals(table)


def test_a_condition_that_does_not_fit_is_refused_with_the_count(ask: Any) -> None:
    found = ask(shots=[0, 2, 9], methods=["random", "similarity"])
    assert {run.shots for run in found.runs} == {0, 2}
    assert [(refusal.method, refusal.shots) for refusal in found.refusals] == [("random", 9), ("similarity", 9)]
    for refusal in found.refusals:
        assert 0 < refusal.too_long <= refusal.prompts
        assert refusal.longest > 64
        assert f"{refusal.too_long} of {refusal.prompts} prompts do not fit" in describe_refusal(refusal)


def test_texts_that_do_not_fit_alone_are_refused_with_their_count(
    ask: Any, rows: pd.DataFrame, model: Transformer, tokenizer: Tokenizer
) -> None:
    long = rows.assign(
        text=[
            f"{text} " * 90 if name == "fruit-0" else text for name, text in zip(rows["id"], rows["text"], strict=True)
        ]
    )
    task, settings = Task(path="x", labels_per_class=None), Prompting.model_validate(SETTINGS | {"text_tokens": 500})
    with pytest.raises(HallmarkError, match=r"2 of \d+ texts do not fit the model's context of 64 tokens even without"):
        prompt_task(long, "labels", model, tokenizer, task=task, settings=settings, seed=5)


def test_by_default_everything_fits_and_what_is_cut_is_counted(
    ask: Any, rows: pd.DataFrame, model: Transformer, tokenizer: Tokenizer
) -> None:
    long = rows.assign(text=rows["text"] + " and so on" * 30)
    settings = Prompting.model_validate(SETTINGS | {"text_tokens": None, "methods": ["random"], "shots": [0, 3]})
    found = prompt_task(long, "x", model, tokenizer, task=Task(path="x"), settings=settings, seed=5)
    assert not found.refusals
    assert found.facts["test_texts_cut"] == found.facts["test_texts"] == 12
    assert found.facts["text_tokens"] < 16


def test_free_generation_answers_what_is_written(ask: Any, model: Transformer, tokenizer: Tokenizer) -> None:
    found = ask(answer="generation", methods=["random"], label_words={"sky": "cloud"})
    answers = {answer for run in found.runs for answer in run.predicted}
    assert answers <= {*WORDS, None}
    assert all(run.predicted == run.uncalibrated for run in found.runs)
    assert "" not in found.predictions()["predicted"].tolist()


TRUTH = [*"aaabbbcccc"]


def prompted(**runs: list[str | None]) -> Prompted:
    """Answers by METHOD_SHOTS_SEED."""
    found = Prompted(["a", "b", "c"], [str(number) for number in range(10)], TRUTH, "c", {})
    for name, answers in runs.items():
        method, shots, seed = name.rsplit("_", 2)
        found.runs.append(Run(method, int(shots), int(seed), 0, answers, ["a"] * 10))
    return found


def test_figures_are_means_over_runs_as_scikit_learn_counts() -> None:
    runs: dict[str, list[str | None]] = {
        "zero_shot_0_1": [*"aaaaabbccc"],
        "random_2_1": [*"abcabcabca"],
        "random_2_2": [None, *"aabbbccca"],
        "easy_2_1": [*TRUTH],
        "easy_2_2": [*"aaabbbccca"],
    }
    found = measure(prompted(**runs), Evaluate(bootstrap_samples=50), 3)
    zero, random, easy = found.conditions

    def macro(answers: list[str | None]) -> float:
        named = [answer or "none" for answer in answers]
        return float(f1_score(TRUTH, named, average="macro", labels=["a", "b", "c"], zero_division=0))

    for condition, names in [
        (zero, ["zero_shot_0_1"]),
        (random, ["random_2_1", "random_2_2"]),
        (easy, ["easy_2_1", "easy_2_2"]),
    ]:
        each = [macro(runs[name]) for name in names]
        accuracies = [accuracy_score(TRUTH, [answer or "none" for answer in runs[name]]) for name in names]
        assert condition.figures["macro_f1"]["value"] == pytest.approx(np.mean(each))
        assert condition.figures["accuracy"]["value"] == pytest.approx(np.mean(accuracies))
        assert (condition.lowest, condition.highest) == pytest.approx((min(each), max(each)))
        assert condition.figures["macro_f1"]["low"] <= np.mean(each) <= condition.figures["macro_f1"]["high"]
    assert random.unanswered == 1 / 20
    lead = easy.figures["macro_f1"]["value"] - random.figures["macro_f1"]["value"]
    assert easy.leads["random"]["value"] == pytest.approx(lead)
    assert set(random.leads) == {"no calibration", "no examples"}
    assert set(zero.leads) == {"no calibration"}
    assert found.comparisons == 1 + 2 + 3
    assert found.majority["accuracy"] == 0.4
    metrics = found.to_metrics()
    assert set(metrics) == {"zero_shot", "random_2", "easy_2", "majority"}
    assert metrics["easy_2"]["lead_random"] == easy.leads["random"]


def test_only_what_is_outside_the_noise_is_claimed() -> None:
    """The same answers are no claim; all right against all wrong is one."""
    right: dict[str, list[str | None]] = {
        "random_2_1": [*"bbbcccaaaa"],
        "easy_2_1": [*TRUTH],
        "hard_2_1": [*"bbbcccaaaa"],
    }
    found = measure(prompted(**right), Evaluate(bootstrap_samples=50), 3)
    _, easy, hard = found.conditions
    assert easy.claims["random"] == "better"
    assert hard.leads["random"] == {"value": 0, "low": 0, "high": 0}
    assert "random" not in hard.claims
    assert "2 easy: better than random ones, +1.000 (+0.667 to +1.000)." in sentences(found)
    claims = sum(len(condition.claims) for condition in found.conditions)
    assert f"{claims} of {found.comparisons} differences" in verdict(found)
    rows = figure_table(found).rows
    assert [row[0] for row in rows] == ["majority label", "random", "easy", "hard"]
