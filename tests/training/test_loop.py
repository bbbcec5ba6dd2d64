"""The training loop: exact resume, exact gradients, clean stops."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.common.compiler import find_compiler
from pipeline.common.errors import HallmarkError
from pipeline.common.files import read_json, read_jsonl, sha256_file
from pipeline.common.params import Pretrain
from pipeline.common.processes import Interrupted
from pipeline.model.transformer import Transformer
from pipeline.model.weights import named_weights
from pipeline.tokenization.shards import TokenShard
from pipeline.training.checkpoints import checkpoint_steps
from pipeline.training.loop import Loss, TrainPlan, TrainResult, train
from pipeline.training.objectives import OBJECTIVES, PretrainingLoss, Validation
from pipeline.training.optimizers import pretraining_optimizers, trapezoid
from pipeline.training.replay import Batch, Replay
from pipeline.training.runtime import Runtime
from tests.training.tiny import CONTEXT, tiny_config, tiny_objective, tiny_runtime, tiny_shard, tiny_tokenizer

STEPS = 12
EVERY_OBJECTIVE = [name for names in OBJECTIVES.values() for name in names]


class StoppedError(Exception):
    """Stands for a kill between two steps."""


def run_training(
    scratch: Path,
    *,
    objective: str = "causal",
    optimizer: Any = "muon",
    stop_after: int | None = None,
    loss: Loss | None = None,
    measured: Callable[[dict[str, float]], dict[str, float]] = dict,
    chosen: Runtime | None = None,
    **plan_changes: Any,
) -> tuple[dict[str, Tensor], TrainResult]:
    """Train with dropout, three micro-batches a step and several epochs; `stop_after` cuts it off in mid-step."""
    scratch.mkdir(parents=True, exist_ok=True)
    chosen = chosen or tiny_runtime()
    learned = tiny_objective(objective, packing=None)
    torch.manual_seed(1)
    model = Transformer(tiny_config(objective, dropout=0.2, attention_dropout=0.1)).to(chosen.device)
    measure = Validation(learned, tiny_shard(), tiny_tokenizer(), 4, chosen.device)
    run_batch, calls = Replay.__call__, 0

    def cut_off(replay: Replay, batch: Batch) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        if stop_after is not None and calls > 3 * stop_after + 1:  # 3 micro-batches a step
            raise StoppedError
        return run_batch(replay, batch)

    plan = TrainPlan("pretrain", STEPS, gradient_clip=1.0, validate_every=3, checkpoint_every=2, flops_per_token=1e3)
    plan = replace(plan, **plan_changes)
    with patch.object(Replay, "__call__", cut_off):
        result = train(
            model,
            loss or PretrainingLoss(chosen),
            learned.batches(tiny_shard(), 6 * CONTEXT, 2 * CONTEXT, seed=1),
            pretraining_optimizers(model, Pretrain(optimizer=optimizer), trapezoid(plan.steps, 0.1, 0.5)),
            plan,
            chosen,
            scratch=scratch,
            validate=lambda: measured(measure(model) | {"score": -measure(model)["loss"]}),
            report=lambda step, values: None,
        )
    return named_weights(model), result


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize(("objective", "killed_in_step"), [*zip(EVERY_OBJECTIVE, (1, 5, 6, 9, 7), strict=True)])
def test_a_cut_off_training_resumes_to_the_same_bits(
    tmp_path: Path, objective: str, optimizer: str, killed_in_step: int
) -> None:
    arm: dict[str, Any] = {"objective": objective, "optimizer": optimizer}
    whole, result = run_training(tmp_path / "whole", **arm)
    with pytest.raises(StoppedError):
        run_training(tmp_path / "cut", stop_after=killed_in_step, **arm)
    resumed, resumed_result = run_training(tmp_path / "cut", **arm)
    for name, weight in whole.items():
        assert torch.equal(weight, resumed[name]), name
    assert result.metrics_path.read_bytes() == resumed_result.metrics_path.read_bytes()
    assert [line["step"] for line in read_jsonl(result.metrics_path) if "loss" in line] == list(range(1, STEPS + 1))


def test_the_best_weights_survive_a_kill(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"best_metric": "score", "patience": 20, "validate_every": 1}
    whole, result = run_training(tmp_path / "whole", **settings)
    with pytest.raises(StoppedError):
        run_training(tmp_path / "cut", stop_after=7, **settings)
    resumed, resumed_result = run_training(tmp_path / "cut", **settings)
    assert replace(result, tokens_per_second=0, mfu=0, metrics_path=tmp_path) == replace(
        resumed_result, tokens_per_second=0, mfu=0, metrics_path=tmp_path
    )
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.items())


def test_patience_stops_and_leaves_the_best_weights(tmp_path: Path) -> None:
    scores = iter([1.0, 3.0, 2.0, 2.5, 9.0])
    seen: list[dict[str, Tensor]] = []
    torch.manual_seed(1)
    model = Transformer(tiny_config("causal"))

    def validate() -> dict[str, float]:
        seen.append({name: weight.clone() for name, weight in named_weights(model).items()})
        return {"score": next(scores)}

    chosen = tiny_runtime()
    result = train(
        model,
        PretrainingLoss(chosen),
        tiny_objective("causal").batches(tiny_shard(), 2 * CONTEXT, None, seed=1),
        pretraining_optimizers(model, Pretrain(), lambda _: 1.0),
        TrainPlan("finetune", 20, 1.0, 1, 5, 1.0, best_metric="score", patience=2),
        chosen,
        scratch=tmp_path,
        validate=validate,
        report=lambda step, values: None,
    )
    assert (result.steps, result.best_step, result.best_value) == (4, 2, 3.0)
    assert all(torch.equal(weight, seen[1][name]) for name, weight in named_weights(model).items())


@pytest.mark.parametrize("objective", EVERY_OBJECTIVE)
def test_micro_batches_do_not_change_the_gradient(objective: str) -> None:
    torch.manual_seed(0)
    model = Transformer(tiny_config(objective)).double()
    loss = PretrainingLoss(tiny_runtime(precision="float32"))
    gradients = []
    for rows in (6, 3, 1):
        batches, _ = next(tiny_objective(objective).batches(tiny_shard(), 6 * CONTEXT, rows * CONTEXT, seed=1))
        assert len(batches) == -(-sum(len(batch["labels"]) for batch in batches) // rows)
        model.zero_grad()
        total = sum(loss(model, batch)[1] for batch in batches)
        for batch in batches:
            (loss(model, batch)[0] / total).backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for other in gradients[1:]:
        for first, second in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(first, second, atol=1e-12, rtol=1e-10)


def spoiled(*steps: int, first_step: int = 1) -> Loss:
    """A loss that is not finite in these steps, in one of their three micro-batches."""
    inner, calls = PretrainingLoss(tiny_runtime()), 0

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        nonlocal calls
        step, place = first_step + calls // 3, calls % 3
        calls += 1
        loss_sum, count = inner(model, batch)
        return (loss_sum * float("inf") if step in steps and place == 1 else loss_sum), count

    return loss


def test_a_loss_that_is_not_finite_stops_with_its_documents_and_the_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(
        HallmarkError,
        match=r"(?s)step 5 gave loss inf.*training documents \d.*last good checkpoint is .*0004.json.*lower the ",
    ):
        run_training(tmp_path, loss=spoiled(5))
    assert checkpoint_steps(tmp_path) == [2, 4]


def test_a_skipped_step_changes_neither_weights_nor_optimizers(tmp_path: Path) -> None:
    _, result = run_training(tmp_path, loss=spoiled(12), checkpoint_every=1, max_skipped_steps=1)
    before, after = (load_file(tmp_path / f"checkpoint-{step:06d}.safetensors") for step in (11, 12))
    assert all(torch.equal(before[name], value) for name, value in after.items() if not name.startswith("random."))
    assert {"skipped_steps": 1, "step": 12} in read_jsonl(result.metrics_path)
    progress = read_json(tmp_path / "checkpoint-000012.json")["progress"]
    assert (progress["step"], progress["skipped_steps"]) == (12, 1)
    assert progress["batches"] != read_json(tmp_path / "checkpoint-000011.json")["progress"]["batches"]


def test_skipped_steps_are_counted_over_a_kill(tmp_path: Path) -> None:
    whole, result = run_training(tmp_path / "whole", loss=spoiled(3, 8), max_skipped_steps=2)
    with pytest.raises(StoppedError):
        run_training(tmp_path / "cut", loss=spoiled(3), stop_after=6, max_skipped_steps=2)
    resumed, resumed_result = run_training(tmp_path / "cut", loss=spoiled(8, first_step=7), max_skipped_steps=2)
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.items())
    assert result.metrics_path.read_bytes() == resumed_result.metrics_path.read_bytes()
    assert [line["step"] for line in read_jsonl(result.metrics_path) if "skipped_steps" in line] == [3, 8]
    with pytest.raises(HallmarkError, match=r"step 8 gave .* after 1 skipped steps"):
        run_training(tmp_path / "strict", loss=spoiled(3, 8), max_skipped_steps=1)


def terminated_in(call: int) -> tuple[Loss, list[int]]:
    """A loss that sends SIGTERM to its own process at a call, and the numbers of its calls."""
    inner, calls = PretrainingLoss(tiny_runtime()), [0]

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        calls.append(calls[-1] + 1)
        if calls[-1] == call:
            os.kill(os.getpid(), signal.SIGTERM)
        return inner(model, batch)

    return loss, calls


def test_sigterm_breaks_a_step_off_and_saves_the_one_before(tmp_path: Path) -> None:
    """Twice in a row: each time only the step under way is lost."""
    whole, result = run_training(tmp_path / "whole")
    cut = tmp_path / "cut"
    for steps_done in (2, 3):
        loss, calls = terminated_in(8 if steps_done == 2 else 5)  # in the second of its step's three micro-batches
        with pytest.raises(Interrupted, match="SIGTERM"):
            run_training(cut, loss=loss, checkpoint_every=100)
        assert checkpoint_steps(cut)[-1] == steps_done
        assert calls[-1] == (8 if steps_done == 2 else 5)  # not one more micro-batch
    resumed, resumed_result = run_training(cut, checkpoint_every=100)
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.items())
    assert result.metrics_path.read_bytes() == resumed_result.metrics_path.read_bytes()


@pytest.mark.parametrize("step", [3, STEPS])
def test_sigterm_breaks_a_validation_off_and_does_it_after_the_resume(tmp_path: Path, step: int) -> None:
    def draw(values: dict[str, float]) -> dict[str, float]:
        return values | {"drawn": float(torch.rand(()))}  # a measure may be random, too

    whole, result = run_training(tmp_path / "whole", measured=draw, best_metric="score")
    measured = 0

    def terminate(values: dict[str, float]) -> dict[str, float]:
        nonlocal measured
        measured += 1
        values = draw(values)
        if measured == step // 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return values

    with pytest.raises(Interrupted, match="SIGTERM"):
        run_training(tmp_path / "cut", measured=terminate, best_metric="score", checkpoint_every=100)
    assert checkpoint_steps(tmp_path / "cut") == [step]
    resumed, resumed_result = run_training(tmp_path / "cut", measured=draw, best_metric="score", checkpoint_every=100)
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.items())
    assert result.metrics_path.read_bytes() == resumed_result.metrics_path.read_bytes()


@pytest.mark.parametrize("packing", ["stream", "documents"])
def test_the_origin_of_a_step_names_the_documents_of_its_rows(packing: str) -> None:
    """Against a search for the rows' tokens in the whole shard."""
    shard = tiny_shard()
    batches, state = tiny_objective("causal", packing=packing).batches(shard, 6 * CONTEXT, None, seed=1), None
    for _ in range(12):  # over two epochs
        named = {int(number) for number in re.findall(r"\d+", batches.origin(state))}
        [batch], state = next(batches)
        possible: set[int] = set()
        for piece in pieces_of(batch):
            places = [documents_at(shard, first, len(piece)) for first in occurrences(piece, shard.tokens)]
            assert any(place <= named for place in places)
            possible |= set().union(*places)
        assert named <= possible


def pieces_of(batch: dict[str, Tensor]) -> Iterator[np.ndarray]:
    """The tokens of each row, the last target included, or of each document packed into it."""
    for row, ids in enumerate(batch["input_ids"].numpy()):
        if "documents" not in batch:
            yield np.append(ids, batch["labels"][row, -1])
            continue
        numbers = batch["documents"][row].numpy()
        pieces = [ids[numbers == number] for number in range(numbers.max() + 1)]
        yield from (piece for piece in pieces if (piece != tiny_tokenizer().pad_id).any())


def occurrences(piece: np.ndarray, tokens: np.ndarray) -> list[int]:
    return [at for at in range(len(tokens) - len(piece) + 1) if np.array_equal(tokens[at : at + len(piece)], piece)]


def documents_at(shard: TokenShard, first: int, count: int) -> set[int]:
    return {int((shard.offsets <= place).sum()) - 1 for place in range(first, first + count)}


@pytest.mark.parametrize("how", ["never", "always"])
def test_training_gives_the_same_bits_with_one_thread_and_two_cold_and_warm(tmp_path: Path, how: str) -> None:
    """In shapes of which Inductor splits sums over threads, if it is let: gradients of norms and biases."""
    if how == "always" and find_compiler() is None:
        pytest.skip("needs a C++ compiler")
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor"), "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, "-m", "tests.training.threaded", str(tmp_path), how]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=480)
    assert done.returncode == 0, done.stderr
    cold, warm, alone = (
        (sha256_file(tmp_path / name / "model.safetensors"), (tmp_path / name / "metrics.jsonl").read_bytes())
        for name in ("cold", "warm", "alone")
    )
    assert cold == warm == alone
