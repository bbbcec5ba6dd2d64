"""The tasks that the documentation of two small libraries gives, each from its rows to its figures."""

from collections.abc import Callable
from typing import get_args

import pytest

from pipeline.common.files import read_json
from pipeline.common.made_tasks import MADE_TASKS
from pipeline.common.params import Task
from tests.toy import ToyProject

pytestmark = pytest.mark.end_to_end

KINDS = get_args(Task.model_fields["kind"].annotation)
TASKS = {name: {"kind": kind, "labels_per_class": 16} for name, kind in MADE_TASKS.items() if kind in KINDS}


def test_every_made_task_is_built_to_its_figures(make_toy: Callable[..., ToyProject]) -> None:
    source = {"libraries": ["networkx", "jinja2"], "task_rows": 250}
    toy = make_toy({"source": source, "validate": {"max_class_share": 1.0}, "tasks": TASKS})
    toy.repro("report")
    kept = read_json(toy.root / "metrics/validate.json")["tables"]
    for task in TASKS:
        assert kept[f"tasks/{task}"]["quarantined"] == 0
        assert (toy.root / f"predictions/{task}.parquet").exists()
        assert read_json(toy.root / f"metrics/evaluate/{task}.json")["baselines"]["scratch"]
    assert "parameters" in (toy.root / "report/report.md").read_text(encoding="utf-8")
