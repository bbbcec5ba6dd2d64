"""The door `prompt`: figures, predictions and pages that agree, the same bytes again, and what is refused."""

from collections.abc import Callable

import pandas as pd
import pytest

from pipeline.common.errors import HallmarkError
from pipeline.common.files import read_json, sha256_folder
from pipeline.common.layout import PROMPTING, metrics_file
from pipeline.common.params import Params
from pipeline.common.tables import read_table
from pipeline.stages import prompt
from pipeline.stages.door import Stage
from pipeline.summary import stage_names
from tests.stages.conftest import MakeStage
from tests.toy import ToyProject

SETTINGS = {"shots": [0, 1], "seeds": [1, 2], "text_tokens": 6, "template": "{text}: {label}\n", "texts": 6}


def stage_of(make_stage: MakeStage, **prompting: object) -> Stage:
    made = make_stage("prompt@kind")
    values = made.params.model_dump(by_alias=True) | {"prompting": {"kind": SETTINGS | prompting}}
    return Stage(made.name, made.key, {}, Params.model_validate(values), made.journal)


def test_figures_pages_and_predictions_agree_and_come_again(
    make_stage: MakeStage, labelled: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = PROMPTING / "kind"
    prompt.main(stage_of(make_stage))
    metrics, predictions = read_json(metrics_file("prompt@kind")), read_table(folder / "predictions.parquet")
    assert metrics["test_texts"] == 6
    assert metrics["refused"] == {}
    for (method, shots), rows in predictions.groupby(["method", "shots"]):
        name = "zero_shot" if method == "zero_shot" else f"{method}_{shots}"
        assert metrics[name]["accuracy"]["value"] == pytest.approx((rows["label"] == rows["predicted"]).mean())
    assert set(predictions["method"]) == {"zero_shot", "random", "similarity", "diversity", "easy", "hard", "gradient"}
    page, twin = ((folder / name).read_text(encoding="utf-8") for name in ("index.html", "prompting.md"))
    figure = f"{metrics['gradient_1']['macro_f1']['value']:.3f}"
    assert figure in page
    assert figure in twin
    chart = (folder / "macro_f1.svg").read_text(encoding="utf-8").strip()
    assert chart in page
    assert chart.count('stroke-opacity=".55"') == 6 * 2  # an interval of each method at each number
    assert "Outside the noise" in capsys.readouterr().out
    before = sha256_folder(folder), metrics
    prompt.main(stage_of(make_stage))
    assert (sha256_folder(folder), read_json(metrics_file("prompt@kind"))) == before


def test_what_does_not_fit_is_in_the_metrics_and_on_the_page(make_stage: MakeStage, labelled: pd.DataFrame) -> None:
    prompt.main(stage_of(make_stage, shots=[0, 9], methods=["random"]))
    refused = read_json(metrics_file("prompt@kind"))["refused"]["random_9"]
    assert 0 < refused["too_long"] <= refused["prompts"]
    page = (PROMPTING / "kind" / "prompting.md").read_text(encoding="utf-8")
    assert f"{refused['too_long']} of {refused['prompts']} prompts do not fit" in page
    with pytest.raises(HallmarkError, match="nothing fits the model's context"):
        prompt.main(stage_of(make_stage, shots=[9], methods=["random"]))


def test_a_task_that_is_not_named_is_refused(make_stage: MakeStage, labelled: pd.DataFrame) -> None:
    with pytest.raises(HallmarkError, match="the task 'kind' is not prompted"):
        prompt.main(make_stage("prompt@kind"))


def test_dvc_and_the_summary_have_the_stage_of_each_named_task_alone(
    make_toy: Callable[..., ToyProject], monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = make_toy()
    for prompting in ({}, {"package": SETTINGS}):
        toy.change(prompting=prompting)
        monkeypatch.chdir(toy.root)
        listed = toy.run("dvc", "stage", "list", "--name-only").stdout.split()
        assert ("prompt@package" in listed) is bool(prompting)
        assert sorted(stage_names(toy.params)) == sorted(listed)
