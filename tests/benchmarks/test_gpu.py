"""The benchmark of one GPU: a trial on the processor with nothing but torch and numpy, and what it refuses."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
import torch

from benchmarks.__main__ import main
from benchmarks.checkout import REPOSITORY
from benchmarks.gpu import format_result

TOY = ["--device", "cpu", "--layers", "1", "--width", "64", "--context", "16", "--batch", "2", "--vocab-size", "300"]
TOY += ["--matrix", "64", "--steps", "2", "--repeats", "2", "--compile", "never"]


@pytest.fixture
def bare_environment(tmp_path: Path) -> Path:
    """A folder of packages that holds torch, numpy and what they require, and nothing else."""
    found: dict[str, Distribution] = {}
    waiting = ["torch", "numpy"]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = distribution(name)
            needed = [line for line in found[name].requires or [] if ";" not in line]
            waiting += [match[0] for line in needed if (match := re.match(r"[\w.-]+", line))]
    for package in found.values():
        for top in {file.parts[0] for file in package.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            (tmp_path / top).symlink_to(Path(str(package.locate_file(top))))
    assert (tmp_path / "torch").exists()
    assert not (tmp_path / "pydantic").exists()
    return tmp_path


def test_torch_and_numpy_are_enough(bare_environment: Path) -> None:
    command = [sys.executable, "-S", "-m", "benchmarks", "gpu", "--json", *TOY]
    environment = os.environ | {"PYTHONPATH": str(bare_environment)}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["parameters"] == 300 * 64 + 16 * 64 + 12 * 64**2 + 3 * 64  # tied head, no biases, three norms
    assert found["flops_per_token"] == 6 * (12 * 64**2 + 300 * 64) + 12 * 64 * 16
    assert len(found["step_seconds"]) == 2
    speeds = [2 * 16 / seconds for seconds in found["step_seconds"]]
    assert found["tokens_per_second"] == pytest.approx(sum(speeds) / 2)
    assert found["mfu"] > 0
    table = format_result(found)
    assert "MFU" in table
    assert f"{found['tokens_per_second']:,.0f}" in table


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(SystemExit, match="torch sees no CUDA device here"):
        main(["gpu"])
