"""Other settings are built in a worktree; the checkout and its params.yaml stay as they are."""

import subprocess
from pathlib import Path

import pytest

from flows.plan import make_plan
from flows.stage import StageProcesses
from flows.workspace import KEPT, check_overrides, workspace
from pipeline.common.errors import HallmarkError
from tests.flows.conftest import ROOT, run, started, until


def stale(folder: Path) -> list[str]:
    return [step.name for step in make_plan(folder) if step.stale]


def test_without_overrides_it_is_the_checkout_and_for_one_alone(built: Path) -> None:
    home = built / ".hallmark"
    code = "import sys, pathlib; from flows.workspace import workspace; home = pathlib.Path(sys.argv[1])\n"
    code += "with workspace(home.parent, home, 'b', {}): print('got it', flush=True)"
    said = built.parent / "said.txt"
    with workspace(built, home, "a", {}) as folder, said.open("w") as output:
        assert folder == built
        other = subprocess.Popen(["python", "-u", "-c", code, str(home)], cwd=ROOT, stdout=output)
        until(lambda: "waiting: another rebuild works here" in said.read_text())
        assert "got it" not in said.read_text()
    assert other.wait(20) == 0
    assert "got it" in said.read_text()


def test_overrides_make_only_their_stage_stale_and_leave_the_checkout_alone(built: Path) -> None:
    before = (built / "params.yaml").read_text()
    home = built / ".hallmark"
    with workspace(built, home, "a", {"finetune.learning_rate": 0.5, "seed": 2}) as folder:
        assert stale(folder) == ["train"]
        text = (folder / "params.yaml").read_text()
        assert "learning_rate: 0.5 " in text
        assert "# tuned by hand" in text  # comments stay
        StageProcesses(folder, home).run("train", gpu=True, on_line=str)
        assert (folder / "data/model.txt").read_text() == "raw prepare [] train ['0.5']"
    assert (built / "params.yaml").read_text() == before
    assert stale(built) == []
    assert run("git", "status", "--porcelain", "params.yaml", "source.txt", cwd=built) == ""
    with workspace(built, home, "b", {"finetune.learning_rate": 0.5}) as folder:  # from the shared cache
        assert StageProcesses(folder, home).run("train", gpu=True, on_line=str) == "restored"
    assert started(built) == ["train"]


def test_a_worktree_has_what_the_checkout_has_now(built: Path) -> None:
    (built / "step.py").write_text((built / "step.py").read_text() + "# changed\n")
    (built / "prefect.yaml").unlink(missing_ok=True)
    (built / "new.py").write_text("untracked")
    (built / "source.txt").write_text("other")
    with (built / ".gitignore").open("a") as ignore:
        ignore.write("/source.txt\n")
    run("git", "rm", "-q", "--cached", "source.txt", cwd=built)  # a source that neither Git nor DVC tracks
    with workspace(built, built / ".hallmark", "a", {"seed": 3}) as folder:
        assert (folder / "step.py").read_text().endswith("# changed\n")
        assert not (folder / "prefect.yaml").exists()
        assert (folder / "new.py").read_text() == "untracked"
        assert (folder / "source.txt").read_text() == "other"
    assert "# changed" in (built / "step.py").read_text()
    assert run("git", "stash", "list", cwd=built) == ""


def test_unknown_and_wrong_settings_are_refused_at_once_before_anything_is_made(built: Path) -> None:
    wrong = {"finetune.learning_rat": 1, "seed": -1, "nothing.at.all": 2}
    with pytest.raises(HallmarkError) as caught, workspace(built, built / ".hallmark", "a", wrong):
        pytest.fail("not refused")
    message = str(caught.value)
    assert "3 problems" in message
    assert "did you mean learning_rate?" in message
    assert "allowed: adapt, lora_rank, lora_alpha" in message
    assert "seed: Input should be greater than or equal to 0" in message
    assert not (built / ".hallmark/worktrees/a").exists()
    with pytest.raises(HallmarkError, match="'seed' has no settings below it"):
        check_overrides(built, {"seed.value": 1})


def test_old_worktrees_go_unless_a_flow_builds_in_them(built: Path) -> None:
    home = built / ".hallmark"
    with workspace(built, home, "busy", {"seed": 2}) as busy:
        for number in range(KEPT + 1):
            with workspace(built, home, f"b{number}", {"seed": 3}):
                pass
        assert busy.exists()
    left = sorted(path.name for path in (home / "worktrees").iterdir() if path.is_dir())
    assert left == ["b1", "b2", "b3", "busy"]
    assert len(run("git", "worktree", "list", cwd=built).splitlines()) == 1 + len(left)
