"""Served in int8: the answers of the arm that `hallmark int8` measures, on a CPU alone."""

from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pytest

from pipeline.common.errors import HallmarkError
from pipeline.model.quantization import quantize_linears
from pipeline.serving.loading import load_packaged
from pipeline.serving.package import Package, write_package
from pipeline.serving.reload import predict_in_fresh_process
from pipeline.serving.save import save_pyfunc
from pipeline.tasks.classification import load_classifier
from tests.serving.conftest import LABELS, TEXTS


@pytest.fixture
def package(classifier_folder: Path, tmp_path: Path) -> Package:
    return write_package(classifier_folder, tmp_path / "topic", TEXTS[:2])


def probabilities(answers: list[dict[str, Any]]) -> np.ndarray:
    return np.array([[answer["probabilities"][label] for label in LABELS] for answer in answers], dtype=np.float32)


@pytest.mark.usefixtures("warm_executable")
def test_the_served_answers_are_those_of_the_int8_arm(
    package: Package, classifier_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, int8 = load_classifier(classifier_folder), load_classifier(classifier_folder)
    assert quantize_linears(int8.model.body) > 0
    save_pyfunc(package, tmp_path / "saved")
    monkeypatch.setenv("HALLMARK_DEVICE", "cpu")
    monkeypatch.setenv("HALLMARK_INT8", "1")
    served: Any = mlflow.pyfunc.load_model(str(tmp_path / "saved"))
    found = probabilities([answer.model_dump() for answer in served.predict(TEXTS)])
    np.testing.assert_array_equal(found, int8.predict_probabilities(TEXTS))
    assert (found != full.predict_probabilities(TEXTS)).any()
    # The stage `register` compares with what `evaluate` said, whatever the shell that started the build has set.
    again = probabilities(predict_in_fresh_process(tmp_path / "saved", TEXTS))
    np.testing.assert_array_equal(again, full.predict_probabilities(TEXTS))


@pytest.mark.parametrize("value", ["", "0"])
def test_without_it_answers_are_in_full_precision(
    package: Package, classifier_folder: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("HALLMARK_DEVICE", "cpu")
    monkeypatch.setenv("HALLMARK_INT8", value)
    found = load_packaged(str(package.folder), load_classifier).predict_probabilities(TEXTS)
    np.testing.assert_array_equal(found, load_classifier(classifier_folder).predict_probabilities(TEXTS))


def test_a_gpu_and_other_values_are_refused(package: Package, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HALLMARK_INT8", "1")
    monkeypatch.setenv("HALLMARK_DEVICE", "cuda")
    with pytest.raises(HallmarkError, match="HALLMARK_INT8=1 is for a CPU, and this model goes to 'cuda'"):
        load_packaged(str(package.folder), load_classifier)
    monkeypatch.setenv("HALLMARK_DEVICE", "cpu")
    monkeypatch.setenv("HALLMARK_INT8", "yes")
    with pytest.raises(HallmarkError, match="HALLMARK_INT8 is 'yes'"):
        load_packaged(str(package.folder), load_classifier)
