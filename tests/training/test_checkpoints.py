"""Checkpoints: whole or not used, written beside the training, and never the end of it."""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from pipeline.common.errors import HallmarkError
from pipeline.common.files import read_json, sha256_json, write_json
from pipeline.common.params import Pretrain
from pipeline.model.transformer import Transformer
from pipeline.training.checkpoints import Checkpoints, Progress, checkpoint_steps, discard, read_checkpoint
from pipeline.training.optimizers import Optimizers, pretraining_optimizers
from pipeline.training.random_state import random_state, restore_random_state
from tests.training.killed import KILLS, STOPPED, STOPS
from tests.training.test_loop import StoppedError, run_training
from tests.training.tiny import tiny_config
from tests.waiting import wait_until


def tiny_training() -> tuple[Transformer, Optimizers]:
    """A model that has taken a step."""
    torch.manual_seed(1)
    model = Transformer(tiny_config("causal"))
    optimizers = pretraining_optimizers(model, Pretrain(), lambda step: 1.0)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizers.step(0)
    return model, optimizers


def draws() -> list[float]:
    """The next numbers of every global generator, those that come in pairs among them."""
    drawn = [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.randn(1).item()]
    return [float(number) for number in drawn]


def test_what_is_saved_is_the_state_at_that_moment_and_comes_back(tmp_path: Path) -> None:
    model, optimizers = tiny_training()
    draws()  # leaves half a pair in some
    then = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    momentum = {name: value.clone() for name, value in optimizers.state_tensors().items()}
    state = random_state()
    progress = Progress(step=3, batches={"epoch": 1, "position": 2}, best_value=0.1, best_step=2, skipped_steps=1)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(model, optimizers, progress, {"a": torch.ones(2)}, state)
        for parameter in model.parameters():  # the training goes on while the file is written
            parameter.data.zero_()
        for value in optimizers.state_tensors().values():
            value.zero_()
        progress.step = 4
    drawn = draws()

    model, optimizers = tiny_training()
    found = Checkpoints(tmp_path).load(model, optimizers)
    assert found is not None
    assert found[0] == Progress(3, {"epoch": 1, "position": 2}, 0, 1, 0.1, 2)
    assert found[1] is not None
    assert torch.equal(found[1]["a"], torch.ones(2))
    assert all(torch.equal(weight, then[name]) for name, weight in model.named_parameters())
    assert all(torch.equal(value, momentum[name]) for name, value in optimizers.state_tensors().items())
    assert draws() == drawn


def test_a_random_state_draws_the_same_again_without_a_file() -> None:
    state = random_state()
    drawn = draws()
    restore_random_state(state)
    assert draws() == drawn


def test_the_last_two_stay_and_those_that_are_to_be_kept(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    run_training(scratch, steps=7, checkpoint_every=2, keep_every=3)
    assert checkpoint_steps(scratch) == [6, 7]
    assert checkpoint_steps(tmp_path / "kept") == [3]
    discard(scratch, keep_every=3)
    assert not scratch.exists()
    assert checkpoint_steps(tmp_path / "kept") == [3, 6]
    read_checkpoint(tmp_path / "kept", 3), read_checkpoint(tmp_path / "kept", 6)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights after six steps."""
    return run_training(tmp_path_factory.mktemp("whole"), steps=6)[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same training, killed in its sixth step: checkpoints of steps 2 and 4."""
    folder = tmp_path_factory.mktemp("killed")
    with pytest.raises(StoppedError):
        run_training(folder, steps=6, stop_after=5)
    return folder


@pytest.fixture
def killed(made: Path, tmp_path: Path) -> Path:
    """A copy of that folder, to spoil."""
    return shutil.copytree(made, tmp_path / "killed")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:500])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def edit_the_step(path: Path) -> None:
    about = read_json(path)
    about["progress"]["batches"]["position"] += 1
    path.write_text(json.dumps(about), encoding="utf-8")


DAMAGES = [
    ("safetensors", cut_short),
    ("safetensors", flip_a_bit),
    ("safetensors", Path.unlink),
    ("json", cut_short),
    ("json", edit_the_step),
]


@pytest.mark.parametrize(("ending", "damage"), DAMAGES)
def test_behind_a_damaged_checkpoint_the_one_before_is_used(
    killed: Path,
    undisturbed: dict[str, torch.Tensor],
    capfd: pytest.CaptureFixture[str],
    ending: str,
    damage: Callable[[Path], None],
) -> None:
    damage(killed / f"checkpoint-000004.{ending}")
    resumed, _ = run_training(killed, steps=6)
    printed = capfd.readouterr()
    assert f"checkpoint-000004.{ending}: this checkpoint is damaged" in printed.err
    assert "going on after step 2 instead: 2 steps are done again" in printed.err
    assert "resumed after step 2" in printed.out
    assert all(torch.equal(weight, resumed[name]) for name, weight in undisturbed.items())
    assert checkpoint_steps(killed) == [4, 6]
    read_checkpoint(killed, 4)


def test_where_no_checkpoint_is_whole_it_says_so_and_starts_nothing(killed: Path) -> None:
    for path in killed.glob("*.safetensors"):
        cut_short(path)
    with pytest.raises(
        HallmarkError, match=r"(?s)no checkpoint is whole.*0004.safetensors: .*0002.safetensors: .*rm .*checkpoint-\*"
    ):
        run_training(killed, steps=6)


def test_a_write_that_was_never_finished_is_no_checkpoint_and_is_cleared_away(tmp_path: Path) -> None:
    for name in (".checkpoint-000002.safetensors.123.tmp", ".tmpgxNgLj"):  # ours, and safetensors' own
        tmp_path.joinpath(name).touch()
    tmp_path.joinpath("checkpoint-000002.safetensors").touch()
    assert Checkpoints(tmp_path).load(*tiny_training()) is None
    assert list(tmp_path.iterdir()) == []


def written_by(path: Path, **versions: str) -> None:
    about = read_json(path)
    about["versions"] |= versions
    del about["sha256"]
    write_json(path, about | {"sha256": sha256_json(about)})


def test_another_version_of_torch_is_refused_and_others_are_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, optimizers = tiny_training()
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(model, optimizers, Progress(step=1), None, random_state())
    written_by(tmp_path / "checkpoint-000001.json", numpy="1.0")
    assert Checkpoints(tmp_path).load(model, optimizers) is not None
    assert "numpy 1.0 wrote this checkpoint" in capfd.readouterr().err
    written_by(tmp_path / "checkpoint-000001.json", torch="1.0")
    with pytest.raises(HallmarkError, match=r"torch 1\.0 wrote this checkpoint"):
        Checkpoints(tmp_path).load(model, optimizers)


def test_another_number_of_threads_is_told_where_the_bits_depend_on_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, optimizers = tiny_training()
    with Checkpoints(tmp_path, bound_to={"threads": "2"}) as checkpoints:
        checkpoints.save(model, optimizers, Progress(step=1), None, random_state())
    for bound_to, told in (({"threads": "1"}, True), ({"threads": "2"}, False), ({}, False)):
        assert Checkpoints(tmp_path, bound_to=bound_to).load(model, optimizers) is not None
        assert ("threads 2 wrote this checkpoint and 1 goes on" in capfd.readouterr().err) == told


def test_a_full_disk_stops_the_training_and_leaves_the_checkpoint_before(
    tmp_path: Path, undisturbed: dict[str, torch.Tensor]
) -> None:
    """Files may not grow beyond a limit here: the system's answer is the same kind of error, at the same place."""
    resource = pytest.importorskip("resource")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_the_disk(values: dict[str, float]) -> dict[str, float]:  # after step 3, and when step 2 is written
        wait_until(lambda: checkpoint_steps(tmp_path))
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limit[1]))
        return values

    try:
        with pytest.raises(HallmarkError, match=r"(?s)could not be written: .*it goes on after step 2"):
            run_training(tmp_path, steps=6, measured=fill_the_disk)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    resumed, _ = run_training(tmp_path, steps=6)
    assert all(torch.equal(weight, resumed[name]) for name, weight in undisturbed.items())


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_a_training_killed_at_twenty_random_moments_ends_with_the_same_bits(tmp_path: Path) -> None:
    """Ten of the kills come while a checkpoint is written; two requests to stop come before."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.killed", str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["ends"] == [STOPPED] * STOPS + [-9] * KILLS + [0, 0], done.stderr
    assert sum(found["torn"]) >= 1
    assert found["checkpoints"][:STOPS] == found["done"][:STOPS]  # a request to stop loses no whole step
    names = ("disturbed", "undisturbed")
    disturbed, whole = (load_file(tmp_path / f"{name}.safetensors") for name in names)
    assert all(torch.equal(weight, disturbed[name]) for name, weight in whole.items())
    curves = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in names]
    assert curves[0] == curves[1]
    assert len(list((tmp_path / "disturbed").iterdir())) == 5  # the curve and two checkpoints, nothing torn
