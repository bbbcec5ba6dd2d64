"""The door `evaluate`: figures, predictions and plots that agree with each other."""

import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score

from pipeline.common.files import read_json, sha256_file
from pipeline.common.layout import FINETUNED, PLOTS, PREDICTIONS, metrics_file
from pipeline.common.tables import read_table
from pipeline.stages import evaluate, finetune
from pipeline.tasks.classification import load_classifier
from tests.stages.conftest import MakeStage


@pytest.fixture
def evaluated(make_stage: MakeStage, labelled: pd.DataFrame) -> pd.DataFrame:
    for arm in ("finetune", "scratch"):
        finetune.main(make_stage(f"{arm}@kind", epochs=1))
    evaluate.main(make_stage("evaluate@kind"))
    return read_table(PREDICTIONS / "kind.parquet")


def test_predictions_are_the_classifiers_and_every_baseline_has_a_column(
    evaluated: pd.DataFrame, labelled: pd.DataFrame
) -> None:
    classifier, test = load_classifier(FINETUNED / "kind"), labelled[labelled["split"] == "test"]
    columns = [f"p_{label}" for label in classifier.labels]
    assert list(evaluated) == ["id", "label", "predicted", *columns, "majority", "tfidf", "scratch"]
    assert evaluated["id"].tolist() == test["id"].tolist()
    probabilities = classifier.predict_probabilities(test["text"].tolist())
    assert (evaluated[columns].to_numpy() == probabilities).all()
    assert evaluated["predicted"].tolist() == classifier.predict(test["text"].tolist())


def test_figures_are_those_of_the_predictions(evaluated: pd.DataFrame) -> None:
    metrics = read_json(metrics_file("evaluate@kind"))
    for found, column in [
        (metrics, "predicted"),
        *((metrics["baselines"][name], name) for name in metrics["baselines"]),
    ]:
        accuracy = accuracy_score(evaluated["label"], evaluated[column])
        macro_f1 = f1_score(evaluated["label"], evaluated[column], average="macro", zero_division=0)
        assert found["accuracy"]["value"] == pytest.approx(accuracy)
        assert found["macro_f1"]["value"] == pytest.approx(macro_f1)
        assert found["macro_f1"]["low"] <= found["macro_f1"]["high"]
    for name, baseline in metrics["baselines"].items():
        lead = metrics["macro_f1"]["value"] - baseline["macro_f1"]["value"]
        assert baseline["lead_macro_f1"]["value"] == pytest.approx(lead), name
    assert set(metrics["baselines"]) == {"majority", "tfidf", "scratch"}
    assert metrics["f1"]["macro"] == metrics["macro_f1"]["value"]
    assert metrics["test_rows"] == 18
    assert metrics["train_rows"] == 18
    assert metrics["labels_per_class"] == 6
    assert sum(row["rows"] for row in metrics["per_class"].values()) == 18


def test_the_confusion_plot_has_a_line_per_text(evaluated: pd.DataFrame) -> None:
    plotted = pd.read_csv(PLOTS / "kind" / "confusion.csv")
    assert plotted["label"].tolist() == evaluated["label"].tolist()
    assert plotted["predicted"].tolist() == evaluated["predicted"].tolist()


def test_a_second_run_gives_the_same_bytes(make_stage: MakeStage, evaluated: pd.DataFrame) -> None:
    outputs = [PREDICTIONS / "kind.parquet", PLOTS / "kind" / "confusion.csv", metrics_file("evaluate@kind")]
    before = [sha256_file(path) for path in outputs]
    for path in outputs:
        path.unlink()
    evaluate.main(make_stage("evaluate@kind"))
    assert [sha256_file(path) for path in outputs] == before
