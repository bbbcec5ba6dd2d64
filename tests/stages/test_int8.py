"""Int8 beside full precision: the same rows, the same figures, and a difference with its interval."""

import pandas as pd
import pytest

from pipeline.common.errors import HallmarkError
from pipeline.common.files import read_json
from pipeline.common.layout import metrics_file
from pipeline.evaluation.int8 import measure_int8
from pipeline.stages import evaluate, finetune
from tests.stages.conftest import MakeStage


def test_the_figures_of_both_are_measured_on_the_test_rows(make_stage: MakeStage, labelled: pd.DataFrame) -> None:
    for arm in ("finetune", "scratch"):
        finetune.main(make_stage(f"{arm}@kind", epochs=1))
    stage = make_stage("evaluate@kind")
    evaluate.main(stage)
    report = measure_int8("kind", stage.params)
    assert report.full == read_json(metrics_file("evaluate@kind"))["macro_f1"]
    assert report.difference["value"] == pytest.approx(report.int8["value"] - report.full["value"])
    assert 0 < report.bytes_saved < report.bytes
    assert len(report.lines()) == 5
    with pytest.raises(HallmarkError, match="there is no task 'mood'; allowed: kind"):
        measure_int8("mood", stage.params)
