"""The page of a rebuild, and the settings on its command line."""

from pathlib import Path

import pytest

from flows.artifacts import Result, result_page
from flows.command import parse_settings
from flows.plan import Step
from pipeline.common.errors import HallmarkError
from pipeline.common.files import write_json


def test_the_page_has_every_stage_and_every_headline_figure(tmp_path: Path) -> None:
    path = Path("metrics/evaluate.json")
    figures = {"accuracy": {"value": 0.65, "low": 0.6, "high": 0.7}, "rows": 12, "per_class": {"a": {"f1": {"x": 1.0}}}}
    write_json(tmp_path / path, figures | {"confusion": [[1]], "loss": 1.23456})
    steps = [
        Step("train", (), True, ("changed command", "a|b modified"), ()),
        Step("evaluate", ("train",), False, (), (path, Path("metrics/none.json"))),
        Step("report", ("evaluate",), False, (), ()),
    ]
    lines = result_page(tmp_path, steps, {"train": Result("ran", 2.04), "evaluate": Result("unchanged")}, "B").split(
        "\n"
    )
    assert lines[0] == "# B"
    assert "| train | ran | 2.0 | changed command, a\\|b modified |" in lines
    assert "| evaluate | unchanged |  |  |" in lines
    assert "| report | not run |  |  |" in lines
    assert "| evaluate | accuracy | 0.650 [0.600, 0.700] |" in lines
    assert "| evaluate | loss | 1.235 |" in lines
    assert "| evaluate | rows | 12 |" in lines
    assert not any("confusion" in line or "per_class" in line for line in lines)


def test_settings_are_typed_as_json_or_text() -> None:
    pairs = ["a.b=1e-4", "c=null", "d=[1]", "e=two words", "f=true", "g=x=y"]
    expected = {"a.b": 1e-4, "c": None, "d": [1], "e": "two words", "f": True, "g": "x=y"}
    assert parse_settings(pairs) == expected
    with pytest.raises(HallmarkError, match=r"'c' is not NAME=VALUE\n  next: --set finetune"):
        parse_settings(["a=1", "c"])
