"""Cross-validation: every row is held out once, with its copies, and measured by a model that never saw it."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.common.errors import HallmarkError
from pipeline.common.files import read_json
from pipeline.common.layout import home
from pipeline.common.params import Task, render
from pipeline.evaluation import cross_validation
from pipeline.evaluation.cross_validation import cross_validate, fold_keys, number_folds
from pipeline.tracking.cross_validations import EXPERIMENT
from pipeline.tracking.mlflow_store import open_store
from tests.stages.conftest import MakeStage

OWN, DOCS = Task(path="labels.csv"), Task()


def test_what_belongs_together_is_in_one_fold_and_folds_are_even() -> None:
    rows = pd.DataFrame({"text": [f"t{n // 2}" for n in range(40)], "group": [f"m{n // 8}" for n in range(40)]})
    for task, column in ((OWN, "text"), (DOCS, "group")):
        numbers = number_folds(fold_keys(rows, task), 5, seed=1)
        assert (numbers.groupby(rows[column]).nunique() == 1).all()
        assert numbers.value_counts().to_dict() == dict.fromkeys(range(5), 8)
    shuffled = rows.sample(frac=1, random_state=0)
    again = number_folds(fold_keys(shuffled, OWN), 5, seed=1)
    assert again.sort_index().tolist() == number_folds(fold_keys(rows, OWN), 5, seed=1).tolist()
    assert number_folds(rows["text"], 5, seed=2).tolist() != number_folds(rows["text"], 5, seed=1).tolist()


def test_each_row_is_held_out_once_and_figures_are_over_the_folds(
    make_stage: MakeStage, labelled: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = make_stage("finetune@kind", labels_per_class=None, epochs=1).params
    kind, seen = cross_validation.KINDS["classification"], []

    def prepare(rows: pd.DataFrame, *arguments: Any) -> Any:
        seen.append({split: set(rows.loc[rows["split"] == split, "text"]) for split in ("train", "validation")})
        return kind.prepare(rows, *arguments)

    watched = cross_validation.KINDS | {"classification": type(kind)(prepare, kind.load)}
    monkeypatch.setattr(cross_validation, "KINDS", watched)
    found = cross_validate("kind", params, 3)
    trained, tested = seen[::2], [each["validation"] for each in seen[1::2]]
    for learned, held_out in zip(trained, tested, strict=True):
        assert not (learned["train"] | learned["validation"]) & held_out
    assert set().union(*tested) == set(labelled["text"])
    assert sum(map(len, tested)) == labelled["text"].nunique()
    assert sum(found.rows) == len(labelled)
    values = pd.Series([fold["macro_f1"] for fold in found.folds])
    assert found.mean["macro_f1"] == pytest.approx(values.mean())
    assert found.deviation["macro_f1"] == pytest.approx(values.std())
    assert found.lines()[0].startswith("task kind, 3 folds of ")
    assert any(line.startswith("macro_f1 ") for line in found.lines())


def test_too_many_folds_and_unknown_tasks_are_refused(make_stage: MakeStage, labelled: pd.DataFrame) -> None:
    params = make_stage("finetune@kind").params
    with pytest.raises(
        HallmarkError, match=r"kind.parquet: 999 folds of \d+ different texts: there must be 2 folds or more"
    ):
        cross_validate("kind", params, 999)
    with pytest.raises(HallmarkError, match="there is no task 'mood'; allowed: kind"):
        cross_validate("mood", params, 3)


def test_the_command_keeps_its_figures_in_a_file_and_in_mlflow(
    make_stage: MakeStage, labelled: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    Path("dvc.yaml").touch()
    Path("params.yaml").write_text(render(make_stage("finetune@kind", epochs=1).params), encoding="utf-8")
    done = CliRunner().invoke(app, ["cross-validate", "kind", "--folds", "2", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert read_json(home() / "cross-validation" / "kind.json") == found
    store = open_store(EXPERIMENT)
    kept = store.client.get_run(done.stderr.split()[-1]).data
    assert kept.metrics["macro_f1.mean"] == pytest.approx(found["mean"]["macro_f1"])
    assert (kept.params["folds"], kept.params["finetune.epochs"]) == ("2", "1")
