"""The benchmark on tiny Shakespeare: its arms on a small text, what it measures, and what it refuses."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.arms import shakespeare
from benchmarks.shakespeare import _describe, format_result
from pipeline.common.processes import is_alive
from tests.toy import REPOSITORY
from tests.training.tiny import SONNETS
from tests.waiting import wait_until


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "input.txt").write_text("\n".join(SONNETS) * 6, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("work", [shakespeare.hallmark, shakespeare.nanogpt], ids=["hallmark", "nanogpt"])
def test_an_arm_learns_and_tells_what_it_measured(data: Path, work: Any) -> None:
    few, more = (work(data / "input.txt", "small", 1, steps) for steps in (2, 30))
    assert few["steps"] == 2
    assert few["tokens"] in (2 * 2048, 2 * 12 * 64)
    assert more["loss"] < few["loss"] < math.log(shakespeare.CHARACTERS)
    assert more["compiled"] is False
    assert more["seconds"] > 0


def test_the_held_out_text_is_the_last_tenth(data: Path) -> None:
    text = (data / "input.txt").read_text(encoding="utf-8")
    tokenizer, learned, held_out = shakespeare.read_text(data / "input.txt")
    assert tokenizer.decode(learned.tokens[1:].tolist()) + tokenizer.decode(held_out.tokens[1:].tolist()) == text
    assert len(held_out.tokens) - 1 == len(text) - round(len(text) * 0.9)


def test_an_arm_is_described_by_its_seeds_and_its_peer() -> None:
    facts = {"parameters": 500_000, "steps": 300, "tokens": 300_000, "compiled": False}
    found = {
        "hallmark-small": [facts | {"loss": 1.5, "seconds": 4.0}, facts | {"loss": 1.7, "seconds": 6.0}],
        "nanogpt-small": [facts | {"loss": 1.9, "seconds": 60.0}, facts | {"loss": 1.9, "seconds": 70.0}],
    }
    ours, theirs = (_describe(arm, found) for arm in found)
    assert ours["loss"] == pytest.approx(1.6)
    assert ours["deviation"] == pytest.approx(0.1 * math.sqrt(2))
    assert ours["median_seconds"] == 5.0
    assert ours["speedup"] == pytest.approx(13.0)
    assert ours["reached"]
    assert not theirs["reached"]
    assert theirs["speedup"] is None
    table = format_result({"machine": {"cores": 2}, "seeds": [1, 2], "arms": {"hallmark-small": ours}})
    assert "1.6000 +- 0.1414" in table
    assert "1.8857 reached" in table
    assert "13.0 x" in table


def test_what_it_refuses(tmp_path: Path, data: Path) -> None:
    with pytest.raises(SystemExit, match=r"input.txt: there is no such file"):
        main(["shakespeare", "--data", str(tmp_path / "none")])
    with pytest.raises(SystemExit, match="there is no small; allowed: hallmark-small"):
        main(["shakespeare", "--data", str(data), "--arms", "small"])
    with pytest.raises(SystemExit, match="seeds are numbers with commas"):
        main(["shakespeare", "--data", str(data), "--seeds", "one"])


def test_a_run_in_a_process_of_its_own_prints_nothing_but_the_result(
    data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    main(["shakespeare", "--data", str(data), "--arms", "hallmark-small", "--steps", "2", "--json"])
    printed = capfd.readouterr()
    assert json.loads(printed.out)["arms"]["hallmark-small"]["compiled"] is False
    assert "step 2/2" in printed.err


ENDLESS = """
import sys
from benchmarks.shakespeare import in_own_process
if __name__ == "__main__":
    in_own_process(exec, sys.argv[1])
"""
TELL_AND_WAIT = """
import os, sys, time
with open({told!r}, "w") as file:
    file.write(f"{{os.getpid()}}.")
time.sleep(60)
"""


def test_a_benchmark_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    asked = TELL_AND_WAIT.format(told=str(told))
    started = subprocess.Popen([sys.executable, "-c", ENDLESS, asked], cwd=REPOSITORY)

    def has_told() -> bool:
        assert started.poll() is None
        return told.exists() and told.read_text().endswith(".")

    wait_until(has_told, seconds=120)
    started.kill()
    started.wait()
    wait_until(lambda: not is_alive(int(told.read_text().strip("."))))
