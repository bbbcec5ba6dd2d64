"""Arms that take turns: who works when, what is told, and what happens when one fails."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.choices import choose, leave_out_trainer
from benchmarks.turns import Arm, Clock, median_ratio, take_turns
from pipeline.common.errors import HallmarkError


def note_steps(clock: Clock, settings: dict[str, Any]) -> None:
    """Write the arm's name to the common file at each step."""
    clock.steps = settings["steps"]
    clock.facts["pid"] = os.getpid()
    while True:
        clock.tick()
        with Path(settings["file"]).open("a") as handle:
            handle.write(settings["name"])
        time.sleep(settings["sleep"])


def fail_at_the_second_step(clock: Clock, _settings: dict[str, Any]) -> None:
    clock.steps = 2
    clock.tick()
    clock.tick()
    raise ValueError("a wrong thing")


def die(_clock: Clock, _settings: dict[str, Any]) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_arms_take_turns_round_by_round(tmp_path: Path) -> None:
    file = tmp_path / "steps"
    settings = {"file": str(file), "sleep": 0.0}
    arms = {
        "a": Arm(note_steps, settings | {"name": "a", "steps": 2}),
        "b": Arm(note_steps, settings | {"name": "b", "steps": 3, "sleep": 0.02}),
    }
    found = take_turns(arms, repeats=2)
    assert file.read_text() == "aabbb" * 3  # the first ones as each starts, then two rounds
    assert [len(found[name].measured) for name in "ab"] == [2, 2]
    assert found["a"].start["pid"] != found["b"].start["pid"]
    assert all(one["seconds"] >= 0.06 for one in found["b"].measured)
    assert all(one["steps"] == 2 and one["peak_memory_bytes"] > 0 for one in found["a"].measured)
    assert median_ratio(found["a"], found["a"], lambda one: one["seconds"]) == 1
    with pytest.raises(ProcessLookupError):
        os.kill(found["a"].start["pid"], 0)


def test_an_arm_that_fails_or_dies_is_named(tmp_path: Path) -> None:
    well = Arm(note_steps, {"file": str(tmp_path / "steps"), "name": "a", "steps": 1, "sleep": 0.0})
    with pytest.raises(HallmarkError, match="ill failed: ValueError: a wrong thing"):
        take_turns({"well": well, "ill": Arm(fail_at_the_second_step, {})}, repeats=1)
    with pytest.raises(HallmarkError, match="the process of dead ended without a word"):
        take_turns({"dead": Arm(die, {})}, repeats=1)


def test_choices_keep_their_order_and_name_what_is_allowed() -> None:
    assert choose("c,a", ("a", "b", "c"), "--arms") == ["a", "c"]
    assert choose("all", ("a", "b"), "--arms") == ["a", "b"]
    with pytest.raises(HallmarkError, match="there is no d; allowed: a, b"):
        choose("a,d", ("a", "b"), "--arms")


def test_without_its_packages_trainer_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.choices.find_spec", lambda name: None if name == "accelerate" else object())
    kept, left_out = leave_out_trainer(["hallmark-eager", "trainer", "trainer-grouped"])
    assert kept == ["hallmark-eager"]
    assert left_out == dict.fromkeys(("trainer", "trainer-grouped"), "there is no accelerate; pip install -e .[bench]")
    with pytest.raises(HallmarkError, match="there is no accelerate"):
        leave_out_trainer(["trainer"])
    monkeypatch.undo()
    assert leave_out_trainer(["hallmark-eager"]) == (["hallmark-eager"], {})
