"""A model of any number of labels measured beside its baselines, and its page: from two models that are made up."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score

from pipeline.common.label_sets import labels_from_json, labels_to_json
from pipeline.common.params import Evaluate, Task
from pipeline.evaluation.evaluation import Evaluation
from pipeline.evaluation.multi_label_classification import evaluate_multi_label_classification
from pipeline.evaluation.report.findings import bars, result_rows, shown_texts, verdicts
from pipeline.evaluation.report.label_set_page import (
    MULTI_LABEL_CLASSIFICATION,
    label_counts,
    label_set_findings,
    worst_label_sets,
)
from pipeline.tasks.label_set_metrics import indicators
from pipeline.tasks.multi_label_classification import MultiLabelClassifier

LABELS = ["apple", "pear", "saw"]
TASK = Task(kind="multi_label_classification", path="x.csv", labels_per_class=None)


class Guesser(MultiLabelClassifier):
    """Gives a label to the texts that have its word, but for a share of them, drawn by the seed."""

    def __init__(self, wrong: float) -> None:
        self.labels, self.wrong = LABELS, wrong

    def predict_probabilities(self, texts: Any) -> np.ndarray:
        right = np.array([[label in text for label in LABELS] for text in texts])
        flipped = np.random.default_rng(0).random(right.shape) < self.wrong
        return np.where(right ^ flipped, 0.75, 0.25).astype(np.float32)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    table = []
    for number in range(80):
        words = [label for place, label in enumerate(LABELS) if number >> place & 1]
        split = ("train", "test", "train", "validation")[number // 8 % 4]
        table.append((f"r{number}", f"number {number} {' '.join(words)}", labels_to_json(words), split, "g"))
    return pd.DataFrame(table, columns=["id", "text", "labels", "split", "group"])


@pytest.fixture(scope="module")
def evaluation(rows: pd.DataFrame) -> Evaluation:
    settings = Evaluate(bootstrap_samples=50)
    return evaluate_multi_label_classification(
        rows, "table", Guesser(0.1), Guesser(0.5), task=TASK, settings=settings, seed=1
    )


def test_figures_are_those_of_the_predictions(evaluation: Evaluation, rows: pd.DataFrame) -> None:
    predictions, metrics = evaluation.predictions, evaluation.metrics
    assert predictions["id"].tolist() == rows.loc[rows["split"] == "test", "id"].tolist()
    found = {"predicted": metrics, **metrics["baselines"]}
    assert set(found) == {"predicted", "majority", "tfidf", "scratch"}
    sets = {
        name: indicators([labels_from_json(each) for each in predictions[name]], LABELS) for name in [*found, "labels"]
    }
    for name, figures in found.items():
        assert figures["subset_accuracy"]["value"] == pytest.approx(accuracy_score(sets["labels"], sets[name]))
        for how in ("micro", "macro"):
            expected = f1_score(sets["labels"], sets[name], average=how, zero_division=0)
            assert figures[f"{how}_f1"]["value"] == pytest.approx(expected)
            assert figures[f"{how}_f1"]["low"] <= expected <= figures[f"{how}_f1"]["high"]
        if name != "predicted":
            lead = metrics["macro_f1"]["value"] - figures["macro_f1"]["value"]
            assert figures["lead_macro_f1"]["value"] == pytest.approx(lead)
    probabilities = predictions[[f"p_{label}" for label in LABELS]].to_numpy()
    assert ((probabilities >= 0.5) == sets["predicted"]).all()
    assert metrics["test_rows"] == 24
    assert metrics["train_rows"] == 40
    assert metrics["baselines"]["tfidf"]["macro_f1"]["value"] == pytest.approx(1.0)


def test_the_page_shows_what_is_missed_and_what_is_given_wrongly(evaluation: Evaluation, rows: pd.DataFrame) -> None:
    predictions, words = evaluation.predictions, MULTI_LABEL_CLASSIFICATION
    found = label_set_findings(predictions, rows, {"labels": LABELS})
    assert found["confusions"]["classes"] == [*LABELS, "(none)"]
    wrong = predictions[predictions["labels"] != predictions["predicted"]]
    assert 0 < len(found["mistakes"]) <= len(wrong)
    assert {mistake["id"] for mistake in found["mistakes"]} <= set(wrong["id"])
    [verdict, _] = verdicts(evaluation.metrics, 0.95, words)
    assert verdict["sentence"].startswith("Pretraining helped: the fine-tuned model's macro-F1 differs by +")
    assert [bar.name for bar in bars(evaluation.metrics, "micro_f1", words)][1:] == list(words.baselines.values())
    assert len(result_rows(evaluation.metrics, words)) == 4
    counts = {row.pop("label"): row for row in label_counts(rows, LABELS, TASK, 1)}
    assert counts["apple"] == {"train": 20, "validation": 8, "test": 12, "used": 20}


def test_the_worst_is_the_label_that_it_was_surest_of() -> None:
    predictions = pd.DataFrame(
        {
            "id": ["r0", "r1", "r2"],
            "labels": ['["a"]', '["a"]', "[]"],
            "predicted": ['["b"]', '["a"]', '["b"]'],
            "p_a": [0.1, 0.9, 0.2],
            "p_b": [0.6, 0.1, 0.99],
        }
    )
    pairs = pd.DataFrame({"id": ["r0", "r1", "r2"], "text": ["zero", "one", "two"], "pair": ["x", "y", "z"]})
    found = worst_label_sets(predictions, pairs)
    assert [(mistake["id"], mistake["label"], mistake["predicted"]) for mistake in found] == [
        ("r2", "(none)", "b"),
        ("r0", "a", "b"),
    ]
    assert found[1]["certainty"] == "with probability 0.100 of a"
    assert found[0]["text"] == "two\n\nz"
    assert shown_texts(pairs.drop(columns="pair"))["r1"] == "one"
