"""The plan is DVC's graph and DVC's status, nothing else."""

from pathlib import Path

import pytest

from flows.plan import explain_changes, make_plan
from pipeline.common.errors import HallmarkError


def test_a_new_project_is_all_stale_and_in_order(project: Path) -> None:
    steps = {step.name: step for step in make_plan(project)}
    assert list(steps) == ["prepare", "train", "count", "report"]  # as in dvc.yaml
    assert steps["prepare"].upstream == ()
    assert steps["report"].upstream == ("count", "train")
    assert [step.name for step in steps.values() if step.gpu] == ["train"]
    assert steps["train"].metrics == (Path("metrics/train.json"),)
    assert all(step.stale for step in steps.values())


def test_a_built_project_is_fresh_and_a_change_makes_only_its_stage_stale(built: Path) -> None:
    assert not any(step.stale for step in make_plan(built))
    (built / "params.yaml").write_text("seed: 1\nfinetune:\n  learning_rate: 0.002\n")
    changed = {step.name: step.changes for step in make_plan(built) if step.stale}
    assert changed == {"train": ("changed command",)}
    (built / "data/count.txt").unlink()
    changed = {step.name: step.changes for step in make_plan(built) if step.stale}
    assert changed["count"] == ("data/count.txt deleted",)


def test_changes_read_as_sentences() -> None:
    status = [{"changed deps": {"params.yaml": {"seed": "modified"}, "a.csv": "deleted"}}, "always changed"]
    assert explain_changes(status) == ["params.yaml: seed modified", "a.csv deleted", "always changed"]


def test_a_broken_dvc_yaml_is_named(project: Path) -> None:
    (project / "dvc.yaml").write_text("stages:\n  one:\n    command: true\n")
    with pytest.raises(HallmarkError, match=r"dvc\.yaml"):
        make_plan(project)
