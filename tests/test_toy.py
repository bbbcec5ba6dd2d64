"""The toy project that other tests stand on is what they believe it to be."""

import csv

from tests.toy import PACKAGES, ToyProject


def test_toy_project_is_committed_and_has_real_labelled_text(toy_project: ToyProject) -> None:
    assert toy_project.git("status", "--porcelain") == ""
    with (toy_project.root / "data/own/labels.csv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert {row["label"] for row in rows} == set(PACKAGES)
    assert len(rows) >= 300
    assert len(list((toy_project.root / "data/own/documents").glob("*.txt"))) >= 30


def test_change_keeps_every_other_setting(toy_project: ToyProject) -> None:
    before = toy_project.params
    toy_project.change(finetune={"learning_rate": 0.5})
    assert toy_project.params.finetune.learning_rate == 0.5
    assert toy_project.params.model == before.model
    assert toy_project.params.tasks == before.tasks
