"""The training loop: exact resume, exact gradients, clean stops."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.common.errors import HallmarkError
from pipeline.common.files import read_jsonl, sha256_file
from pipeline.common.params import Compute, Pretrain
from pipeline.common.processes import Interrupted
from pipeline.model.decoder import Decoder
from pipeline.model.weights import named_weights
from pipeline.tokenization.shards import TokenShard
from pipeline.training.checkpoints import FILE
from pipeline.training.language_modeling import BitsPerByte, CausalLoss, TokenWindows
from pipeline.training.loop import Loss, TrainPlan, TrainResult, train
from pipeline.training.optimizers import pretraining_optimizers, trapezoid
from pipeline.training.runtime import Runtime, choose_runtime
from tests.model.test_parts import TINY

STEPS = 12


def tiny_shard() -> TokenShard:
    tokens = np.random.default_rng(0).integers(2, TINY.vocab_size, 400).astype(np.uint16)
    return TokenShard(tokens=tokens, offsets=np.array([0, 400]), tokenizer_hash="t", text_bytes=400)


def runtime(**changes: Any) -> Runtime:
    fixed = {"device": "cpu", "precision": "bfloat16", "compile": "never"}
    return choose_runtime(Compute.model_validate(fixed | changes), 0)


class StoppedError(Exception):
    """Stands for a kill between two steps."""


def run_training(
    scratch: Path,
    *,
    optimizer: Any = "muon",
    stop_after: int | None = None,
    loss: Loss | None = None,
    chosen: Runtime | None = None,
    micro_batch_tokens: int = 24,
    **plan_changes: Any,
) -> tuple[dict[str, Tensor], TrainResult]:
    """Train a decoder with dropout, micro-batches and several epochs; `stop_after` cuts it off in mid-step."""
    scratch.mkdir(parents=True, exist_ok=True)
    chosen = chosen or runtime()
    torch.manual_seed(1)
    model = Decoder(replace(TINY, dropout=0.2))
    shard = tiny_shard()
    measure = BitsPerByte(shard, np.ones(TINY.vocab_size, np.int32), TINY.context_length, 4, chosen.device)
    inner, calls = loss or CausalLoss(chosen), 0

    def cut_off(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        if stop_after is not None and calls > 3 * stop_after + 1:  # 3 micro-batches a step
            raise StoppedError
        return inner(model, dict(batch))

    plan = TrainPlan(
        name="pretrain", steps=STEPS, gradient_clip=1.0, validate_every=3, checkpoint_every=2, flops_per_token=1e3
    )
    result = train(
        model,
        cut_off,
        TokenWindows(shard, TINY.context_length, batch_tokens=72, micro_batch_tokens=micro_batch_tokens, seed=1),
        pretraining_optimizers(model, Pretrain(optimizer=optimizer), trapezoid(STEPS, 0.1, 0.5)),
        replace(plan, **plan_changes),
        chosen,
        scratch=scratch,
        validate=lambda: measure(model) | {"score": -measure(model)["loss"]},
        report=lambda step, values: None,
    )
    return named_weights(model), result


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("killed_in_step", [1, 5, 6, 9])
def test_a_cut_off_training_resumes_to_the_same_bits(tmp_path: Path, optimizer: str, killed_in_step: int) -> None:
    whole, result = run_training(tmp_path / "whole", optimizer=optimizer)
    with pytest.raises(StoppedError):
        run_training(tmp_path / "cut", optimizer=optimizer, stop_after=killed_in_step)
    resumed, resumed_result = run_training(tmp_path / "cut", optimizer=optimizer)
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
    model = Decoder(TINY)

    def validate() -> dict[str, float]:
        seen.append({name: weight.clone() for name, weight in named_weights(model).items()})
        return {"score": next(scores)}

    chosen = runtime()
    result = train(
        model,
        CausalLoss(chosen),
        TokenWindows(tiny_shard(), TINY.context_length, 24, None, seed=1),
        pretraining_optimizers(model, Pretrain(), lambda _: 1.0),
        TrainPlan("finetune", 20, 1.0, 1, 5, 1.0, best_metric="score", patience=2),
        chosen,
        scratch=tmp_path,
        validate=validate,
        report=lambda step, values: None,
    )
    assert (result.steps, result.best_step, result.best_value) == (4, 2, 3.0)
    assert all(torch.equal(weight, seen[1][name]) for name, weight in named_weights(model).items())


def test_micro_batches_do_not_change_the_gradient() -> None:
    torch.manual_seed(0)
    model = Decoder(TINY).double()
    loss = CausalLoss(runtime(precision="float32"))
    gradients = []
    for micro_batch_tokens in (72, 36, 12):
        batches, _ = next(TokenWindows(tiny_shard(), TINY.context_length, 72, micro_batch_tokens, seed=1))
        assert len(batches) == 72 // micro_batch_tokens
        model.zero_grad()
        total = sum(loss(model, batch)[1] for batch in batches)
        for batch in batches:
            (loss(model, batch)[0] / total).backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for other in gradients[1:]:
        for first, second in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(first, second, atol=1e-6, rtol=1e-5)  # logits are summed in float32


def test_a_loss_that_is_not_finite_stops_with_the_last_good_checkpoint(tmp_path: Path) -> None:
    inner, calls = CausalLoss(runtime()), 0

    def explode(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        loss_sum, count = inner(model, batch)
        return (loss_sum * float("nan") if calls > 13 else loss_sum), count

    with pytest.raises(
        HallmarkError, match=r"(?s)step 5 gave loss nan.*last good checkpoint is .*lower the learning rate"
    ):
        run_training(tmp_path, loss=explode)
    from safetensors import safe_open

    with safe_open(tmp_path / FILE, framework="pt") as file:
        assert json.loads(file.metadata()["progress"])["step"] == 4


def test_sigterm_saves_the_last_whole_step_and_stops(tmp_path: Path) -> None:
    whole, _ = run_training(tmp_path / "whole")
    inner, calls = CausalLoss(runtime()), 0

    def terminate_once(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        if calls == 8:  # inside step 3
            os.kill(os.getpid(), signal.SIGTERM)
        return inner(model, batch)

    with pytest.raises(Interrupted, match="SIGTERM"):
        run_training(tmp_path / "cut", loss=terminate_once, checkpoint_every=100)
    resumed, _ = run_training(tmp_path / "cut", checkpoint_every=100)
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.items())


def test_a_damaged_checkpoint_is_refused_and_named(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        run_training(tmp_path, stop_after=5)
    checkpoint = tmp_path / FILE
    checkpoint.write_bytes(checkpoint.read_bytes()[:500])
    with pytest.raises(HallmarkError, match=r"checkpoint.safetensors: this checkpoint is damaged"):
        run_training(tmp_path)


def test_windows_go_through_every_token_once_an_epoch_and_resume_anywhere() -> None:
    windows = TokenWindows(tiny_shard(), TINY.context_length, 36, None, seed=5)
    start_of_epoch = sorted(windows.starts)
    assert np.all(np.diff(start_of_epoch) == TINY.context_length)
    stream = [next(windows) for _ in range(40)]
    assert stream[-1][1]["epoch"] > 1
    for batches, state in stream[3:30:9]:
        index = next(i for i, (_, other) in enumerate(stream) if other == state)
        resumed = TokenWindows(tiny_shard(), TINY.context_length, 36, None, seed=5)
        resumed.load_state(json.loads(json.dumps(state)))
        following, following_state = next(resumed)
        assert following_state == stream[index + 1][1]
        assert torch.equal(following[0]["input_ids"], stream[index + 1][0][0]["input_ids"])
        assert torch.equal(batches[0]["input_ids"][:, 1:], batches[0]["labels"][:, :-1])


def test_too_little_text_is_refused() -> None:
    with pytest.raises(HallmarkError, match="400 training tokens are too few for windows of 300"):
        TokenWindows(tiny_shard(), 300, 300, None, seed=1)


def test_bits_per_byte_of_a_uniform_model_is_known() -> None:
    model = Decoder(TINY)
    torch.nn.init.zeros_(model.lm_head.weight)
    two_bytes_each = np.full(TINY.vocab_size, 2, np.int32)
    values = BitsPerByte(tiny_shard(), two_bytes_each, 12, 4, torch.device("cpu"))(model.eval())
    assert values["loss"] == pytest.approx(np.log(TINY.vocab_size), rel=1e-5)
    assert values["bits_per_byte"] == pytest.approx(np.log2(TINY.vocab_size) / 2, rel=1e-5)


COMPILED_RUN = """
import sys, torch
from pathlib import Path
from tests.training.test_loop import run_training, runtime
from safetensors.torch import save_file
torch.set_num_threads(int(sys.argv[2]))
weights, _ = run_training(Path(sys.argv[1]) / "scratch", chosen=runtime(compile="always"))
save_file(weights, Path(sys.argv[1]) / "weights.safetensors")
"""


@pytest.mark.skipif(not os.environ.get("CXX") and not Path("/usr/bin/g++").exists(), reason="needs a C++ compiler")
def test_compiled_training_gives_the_same_bits_cold_and_warm_with_one_thread_and_two(tmp_path: Path) -> None:
    hashes = []
    for name, threads in [("cold", 2), ("warm", 1)]:
        folder = tmp_path / name
        folder.mkdir()
        environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
        subprocess.run(
            [sys.executable, "-c", COMPILED_RUN, str(folder), str(threads)], check=True, env=environment, timeout=240
        )
        hashes.append(sha256_file(folder / "weights.safetensors"))
    assert hashes[0] == hashes[1]


KILLED_RUN = """
import sys
from pathlib import Path
from tests.training.test_loop import run_training
run_training(Path(sys.argv[1]), checkpoint_every=1, validate_every=100)
"""


def test_kill_9_at_any_moment_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    whole, _ = run_training(tmp_path / "whole", checkpoint_every=1, validate_every=100)
    cut = tmp_path / "cut"
    process = subprocess.Popen([sys.executable, "-c", KILLED_RUN, str(cut)], stdout=subprocess.DEVNULL)
    while not (cut / FILE).exists() and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.wait()
    resumed, _ = run_training(cut, checkpoint_every=1, validate_every=100)
    assert all(torch.equal(weight, resumed[name]) for name, weight in whole.items())
