"""The stage `register`: package, proof by a fresh process, registry."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.common.errors import HallmarkError
from pipeline.common.files import read_json
from pipeline.common.layout import FINETUNED, PREDICTIONS, REGISTERED, clean_task
from pipeline.common.params import Params
from pipeline.common.tables import write_table
from pipeline.serving.kinds import SERVED
from pipeline.serving.package import read_package
from pipeline.stages import register
from pipeline.stages.door import Stage
from pipeline.tasks.classification import load_classifier
from pipeline.tracking.journal import Journal
from tests.serving.conftest import LABELS, TEXTS, make_classifier

ALIKE = "2 test rows predicted alike by a fresh process, to the last bit"


def predictions_of(folder: Path) -> pd.DataFrame:
    classifier = load_classifier(folder)
    probabilities = classifier.predict_probabilities(TEXTS)
    columns = {f"p_{label}": probabilities[:, place] for place, label in enumerate(LABELS)}
    predicted = [LABELS[place] for place in probabilities.argmax(axis=1)]
    ids = [f"row {number}" for number in range(len(TEXTS))]
    return pd.DataFrame({"id": ids, "label": LABELS[0], "predicted": predicted, **columns})


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """The stage with all it reads: a fine-tuned model, clean rows, and what `evaluate` predicted for them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HALLMARK_HOME", str(tmp_path / ".hallmark"))
    monkeypatch.delenv("HALLMARK_TRACKING", raising=False)
    make_classifier(FINETUNED / "library")
    predictions = predictions_of(FINETUNED / "library")
    write_table(PREDICTIONS / "library.parquet", predictions)
    write_table(clean_task("library"), pd.DataFrame({"id": predictions["id"], "text": TEXTS})[::-1])
    journal = Journal("e" * 64)
    return Stage("register@library", "e" * 64, {}, Params(), journal)


@pytest.mark.usefixtures("warm_executable")
def test_a_model_that_predicts_as_evaluate_did_is_packaged_though_the_registry_is_away(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # discard: nobody listens
    Path("params.yaml").write_text("{}\n")
    register.main(stage)
    shown = capsys.readouterr()
    assert f"{len(TEXTS)} test rows predicted alike by a fresh process, to the last bit" in shown.out
    assert shown.err.count("MLflow does not answer") == 1
    assert "later: hallmark register library" in shown.err
    assert read_json("metrics/register/library.json") == {
        "package_hash": read_package(REGISTERED / "library").hash,
        "rows_compared": len(TEXTS),
    }
    assert not list(stage.journal.path.parent.glob("scratch/*"))


def test_without_tracking_nothing_is_registered(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HALLMARK_TRACKING", "off")
    register.register(stage, stage.scratch)
    assert "tracking is off; later: hallmark register library" in capsys.readouterr().out


def test_a_model_that_predicts_otherwise_is_refused() -> None:
    rows = [{"predicted": "a", "p_a": 0.9, "p_b": 0.1}, {"predicted": "b", "p_a": 0.4, "p_b": 0.6}]
    answers: list[dict[str, Any]] = [
        {"label": "a", "probabilities": {"a": 0.9, "b": 0.1}},
        {"label": "b", "probabilities": {"a": 0.4, "b": 0.6}},
    ]
    assert difference("classification", rows, answers) == ALIKE
    answers[1] = {"label": "a", "probabilities": {"a": 0.7, "b": 0.3}}
    with pytest.raises(HallmarkError, match=r"1 of 2 answers differ, probabilities by up to 3\.0e-01; first: y"):
        difference("classification", rows, answers)


def test_other_labels_than_those_of_evaluate_are_refused() -> None:
    rows = [{"predicted": '["a"]', "p_a": 0.9, "p_b": 0.1}, {"predicted": "[]", "p_a": 0.2, "p_b": 0.3}]
    answers: list[dict[str, Any]] = [
        {"labels": ["a"], "probabilities": {"a": 0.9, "b": 0.1}},
        {"labels": [], "probabilities": {"a": 0.2, "b": 0.3}},
    ]
    assert difference("multi_label_classification", rows, answers) == ALIKE
    answers[1] = {"labels": ["b"], "probabilities": {"a": 0.2, "b": 0.5}}
    with pytest.raises(HallmarkError, match=r"1 of 2 answers differ, probabilities by up to 2\.0e-01; first: y"):
        difference("multi_label_classification", rows, answers)


def test_other_spans_than_those_of_evaluate_are_refused() -> None:
    spans = '[{"start": 0, "end": 4, "label": "a"}]'
    rows = [{"predicted": spans, "scores": [0.5]}, {"predicted": "[]", "scores": []}]
    found = {"start": 0, "end": 4, "label": "a", "text": "Rome", "score": 0.5}
    assert difference("token_classification", rows, [{"spans": [found]}, {"spans": []}]) == ALIKE
    with pytest.raises(HallmarkError, match=r"0 of 2 answers differ, probabilities by up to 1\.0e-01"):
        difference("token_classification", rows, [{"spans": [found | {"score": 0.6}]}, {"spans": []}])
    with pytest.raises(HallmarkError, match=r"1 of 2 answers differ.*first: x"):
        difference("token_classification", rows, [{"spans": [found | {"end": 3}]}, {"spans": []}])


def test_other_answers_than_those_of_evaluate_are_refused() -> None:
    rows = [{"predicted": '[{"start": 4, "text": "Rome"}]', "score": 0.5}, {"predicted": "[]", "score": 0.25}]
    found = [{"answer": "Rome", "start": 4, "end": 8, "score": 0.5}, {"answer": "", "start": None, "score": 0.25}]
    assert difference("question_answering", rows, found) == ALIKE
    with pytest.raises(HallmarkError, match=r"0 of 2 answers differ, probabilities by up to 1\.0e-01"):
        difference("question_answering", rows, [found[0], found[1] | {"score": 0.35}])
    with pytest.raises(HallmarkError, match=r"2 of 2 answers differ.*first: x"):
        difference("question_answering", rows, found[::-1])


def test_other_words_than_those_of_evaluate_are_refused() -> None:
    rows, said = [{"predicted": "Yes."}, {"predicted": ""}], {"role": "assistant", "content": "Yes."}
    assert difference("dialogue", rows, [said, said | {"content": ""}]) == ALIKE
    with pytest.raises(HallmarkError, match=r"1 of 2 answers differ.*first: y"):
        difference("dialogue", rows, [said, said])


@pytest.mark.parametrize(
    ("precision", "apart", "refused"), [("float32", 2e-5, True), ("bfloat16", 2e-5, False), ("bfloat16", 5e-3, True)]
)
def test_probabilities_may_differ_as_far_as_the_precision_rounds(precision: str, apart: float, refused: bool) -> None:
    rows = [{"predicted": "a", "p_a": 0.75, "p_b": 0.25}, {"predicted": "b", "p_a": 0.25, "p_b": 0.75}]
    answers = [
        {"label": "a", "probabilities": {"a": 0.75 - apart, "b": 0.25 + apart}},
        {"label": "b", "probabilities": {"a": 0.25, "b": 0.75}},
    ]
    if refused:
        with pytest.raises(HallmarkError, match="0 of 2 answers differ"):
            difference("classification", rows, answers, precision)
    else:
        assert difference("classification", rows, answers, precision).endswith(
            "in 1 a probability differs, by up to 2.0e-05"
        )


def difference(kind: str, rows: list[dict[str, Any]], answers: list[dict[str, Any]], precision: str = "float32") -> str:
    found = [SERVED[kind].compare(row, answer) for row, answer in zip(rows, answers, strict=True)]
    register.refuse_difference(["x", "y"], found, register.TOLERANCES[precision], "predictions/t.parquet")
    return register.describe(found)
