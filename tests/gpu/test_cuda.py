"""What is promised on a CPU, on a CUDA device: the same results, exact resumes, a true plan. Skipped without one.

It needs torch, numpy, pydantic, safetensors and tokenizers, and nothing of DVC, MLflow or Prefect:
`pytest tests/gpu -p no:cacheprovider`.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.common.errors import HallmarkError
from pipeline.common.files import read_jsonl
from pipeline.common.params import Compute, Pretrain
from pipeline.model.generation.generator import Generator
from pipeline.model.generation.settings import GenerationSettings
from pipeline.model.presets import PRESETS
from pipeline.model.transformer import Transformer
from pipeline.tokenization.shards import TokenShard
from pipeline.training.objectives import PretrainingLoss, make_objective
from pipeline.training.optimizers import pretraining_optimizers, trapezoid
from pipeline.training.plan import available_memory, explain_out_of_memory, plan_memory, whole_memory
from pipeline.training.replay import Replay
from pipeline.training.runtime import Runtime, choose_runtime
from tests.model.test_parts import OTHER_PARTS, preset_model, tiny_model
from tests.training.test_loop import EVERY_OBJECTIVE, StoppedError, run_training
from tests.training.test_plan import CASES
from tests.training.test_windows import EVERY_WAY
from tests.training.tiny import CONTEXT, tiny_config, tiny_objective, tiny_shard, tiny_tokenizer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
CUDA, CPU = torch.device("cuda"), torch.device("cpu")
ARMS = [*((name, "muon") for name in EVERY_OBJECTIVE), ("causal", "adamw")]


@pytest.fixture(autouse=True)
def exact_float32() -> Iterator[None]:
    """No TF32: its ten bits of mantissa would hide errors."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def cuda_runtime(**changes: Any) -> Runtime:
    fixed = {"device": "cuda", "precision": "bfloat16", "compile": "never"}
    return choose_runtime(Compute.model_validate(fixed | changes), 0)


def each_model() -> Iterator[tuple[str, Transformer]]:
    for name in PRESETS:
        yield name, preset_model(name)
    for name, parts in OTHER_PARTS.items():
        yield name, tiny_model(**parts)


@torch.inference_mode()
def test_every_network_computes_what_it_computes_on_a_cpu() -> None:
    """With padding and without: fast attention against the written-out one."""
    for name, model in each_model():
        ids_BT = torch.randint(5, model.config.vocab_size, (3, 11), generator=torch.Generator().manual_seed(1))
        mask_BT = torch.arange(11) < torch.tensor([[11], [7], [2]])
        target = ids_BT[:, :5] if model.config.family == "encoder-decoder" else None
        for mask in (None, mask_BT):
            expected = model.to(CPU)(ids_BT, mask, target)
            there = [None if given is None else given.to(CUDA) for given in (ids_BT, mask, target)]
            found = model.to(CUDA)(*there).to(CPU)
            rows = slice(None) if mask is None or target is not None else mask
            torch.testing.assert_close(found[rows], expected[rows], atol=1e-4, rtol=1e-4, msg=lambda m: f"{name}: {m}")  # noqa: B023


@pytest.mark.parametrize(("name", "packing"), EVERY_WAY)
def test_loss_and_gradients_are_those_of_a_cpu(name: str, packing: str) -> None:
    check_loss_and_gradients(name, packing, "never")


@pytest.mark.parametrize("name", ["causal", "mlm"])
def test_compiled_attention_by_blocks_has_the_loss_and_gradients_of_a_cpu(name: str) -> None:
    check_loss_and_gradients(name, "documents", "always", num_heads=1)  # of at least 16 numbers


def check_loss_and_gradients(name: str, packing: str, compiled: str, **changes: Any) -> None:
    objective = tiny_objective(name, packing=packing)
    [batch], _ = next(objective.batches(tiny_shard(), 6 * CONTEXT, None, seed=1))
    found = {}
    cuda = cuda_runtime(precision="float32", compile=compiled)
    for runtime in (cuda, cuda_runtime(device="cpu", precision="float32")):
        torch.manual_seed(1)
        model = Transformer(tiny_config(name, **changes))
        for weight in model.parameters():
            nn.init.normal_(weight, std=0.1)
        model.to(runtime.device)
        runtime.compile_blocks(model)
        loss, count = PretrainingLoss(runtime)(model, runtime.send(batch))
        loss.backward()
        gradients = {key: weight.grad.to(CPU) for key, weight in model.named_parameters() if weight.grad is not None}
        found[runtime.device.type] = {"loss": loss.detach().to(CPU), "count": count.to(CPU), **gradients}
    for key, expected in found["cpu"].items():
        scale = float(expected.abs().max()) if expected.is_floating_point() else 1.0
        torch.testing.assert_close(found["cuda"][key], expected, atol=1e-4 * scale + 1e-7, rtol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("objective", "optimizer"), ARMS)
def test_a_cut_off_training_resumes_to_the_same_bits(
    tmp_path: Path, objective: str, optimizer: str, precision: str
) -> None:
    check_resume(tmp_path, cuda_runtime(precision=precision), objective, optimizer)


def test_a_compiled_training_resumes_to_the_same_bits(tmp_path: Path) -> None:
    check_resume(tmp_path, cuda_runtime(compile="always"), "causal", "muon")


def check_resume(folder: Path, runtime: Runtime, objective: str, optimizer: str) -> None:
    arm: dict[str, Any] = {"objective": objective, "optimizer": optimizer, "chosen": runtime}
    whole, result = run_training(folder / "whole", **arm)
    with pytest.raises(StoppedError):
        run_training(folder / "cut", stop_after=5, **arm)
    resumed, resumed_result = run_training(folder / "cut", **arm)
    for name, weight in whole.items():
        assert torch.equal(weight, resumed[name]), name
    assert result.metrics_path.read_bytes() == resumed_result.metrics_path.read_bytes()
    losses = [line["loss"] for line in read_jsonl(result.metrics_path) if "loss" in line]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("compiled", ["never", "always"])
@pytest.mark.parametrize(("objective", "optimizer"), ARMS)
def test_a_replayed_training_has_the_bits_of_one_that_runs_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: str, optimizer: str, compiled: str
) -> None:
    """With dropout, and three micro-batches a step."""
    recorded: list[Replay] = []
    record = Replay._record
    monkeypatch.setattr(Replay, "_record", lambda self, *given: recorded.append(self) or record(self, *given))
    arm: dict[str, Any] = {"objective": objective, "optimizer": optimizer, "chosen": cuda_runtime(compile=compiled)}
    replayed, result = run_training(tmp_path / "replayed", **arm)
    assert recorded
    monkeypatch.setattr(Runtime, "replays", lambda *_: False)
    written, written_result = run_training(tmp_path / "written", **arm)
    assert len(recorded) == 1
    for name, weight in written.items():
        assert torch.equal(weight, replayed[name]), name
    assert result.metrics_path.read_bytes() == written_result.metrics_path.read_bytes()


def test_what_waits_for_the_gpu_is_never_recorded() -> None:
    weight = nn.Parameter(torch.ones(3, device=CUDA))

    def backward(batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = weight[batch["chosen"]]  # of as many values as the mask says
        chosen.sum().backward()
        return chosen.detach().sum(), batch["chosen"].sum()

    replay = Replay(backward, [weight], lambda _batch: True)
    for step in range(1, 6):
        replay.begin_step()
        mask = torch.tensor([step % 2 == 0, True, False], device=CUDA)
        assert [float(found) for found in replay({"chosen": mask})] == [1 + (step % 2 == 0)] * 2
        assert weight.grad is not None
        assert weight.grad.tolist() == mask.float().tolist()


@torch.inference_mode()
def test_generation_writes_the_tokens_of_a_cpu() -> None:
    prompts = [[5, 9, 3, 22], [7], [30, 31, 2]]
    greedy = GenerationSettings(max_new_tokens=7)
    drawn = replace(greedy, temperature=1.3, top_k=20, top_p=0.95, min_p=0.01, repetition_penalty=1.2, seed=5)
    for name, model in each_model():
        if model.decoder is None:
            continue
        for chosen in (greedy, drawn, replace(greedy, beams=3)):
            expected = Generator(model.to(CPU), 1).generate(prompts, chosen)
            assert Generator(model.to(CUDA), 1).generate(prompts, chosen) == expected, name


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "changes"), CASES, ids=str)
def test_the_peak_of_memory_is_planned(name: str, changes: dict[str, Any], precision: str) -> None:
    """At a size where tensors outweigh the allocator's rounding."""
    large = {"hidden_size": 256, "intermediate_size": 1024, "num_heads": 4, "depth": 4, "context_length": 256}
    heads = {"num_heads": 4, "num_kv_heads": 1} if "num_kv_heads" in changes else {}
    runtime, settings = cuda_runtime(precision=precision), Pretrain()
    objective = make_objective(name, tiny_tokenizer(), 256, Pretrain(mask_share=0.2, mean_span=2))
    rows = 16
    [batch], _ = next(objective.batches(long_shard(), rows * objective.row_length, None, 1))
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model = Transformer(tiny_config(name, **(changes | large | heads))).to(CUDA)
    optimizers = pretraining_optimizers(model, settings, trapezoid(10, 0.1, 0.4))
    loss = PretrainingLoss(runtime)
    for step in range(2):
        with runtime.autocast():
            value, _ = loss(model, runtime.send(batch))
        value.backward()
        del value
        optimizers.step(step)
    peak = torch.cuda.max_memory_allocated() - before
    planned = plan_memory(model, model.config, settings, objective, rows, runtime).total
    assert 0.75 * planned < peak < 1.1 * planned, f"planned {planned / 1e6:.0f} MB, peak {peak / 1e6:.0f} MB"


def long_shard() -> TokenShard:
    """The sonnets, again and again."""
    shard, times = tiny_shard(), 60
    offsets = np.concatenate([shard.offsets[:-1] + n * shard.offsets[-1] for n in range(times)])
    ends = np.append(offsets, times * shard.offsets[-1])
    return TokenShard(np.tile(shard.tokens, times), ends, shard.tokenizer_hash, shard.text_bytes * times)


def test_running_out_of_memory_names_the_largest_part() -> None:
    runtime, objective = cuda_runtime(), tiny_objective("causal")
    model = Transformer(tiny_config("causal")).to(CUDA)
    plan = plan_memory(model, model.config, Pretrain(), objective, 6, runtime)
    with pytest.raises(HallmarkError, match=r"CUDA out of memory.*the largest part"), explain_out_of_memory(plan):
        torch.empty(2**50, dtype=torch.int8, device=CUDA)
    assert 0 < available_memory(model, CUDA) <= whole_memory(CUDA)


def test_the_runtime_of_a_gpu_is_chosen() -> None:
    runtime = choose_runtime(Compute(), 1e20)
    assert runtime.device.type == "cuda"
    assert runtime.precision == torch.bfloat16
    assert runtime.compile
    assert runtime.matmul_rate > 1e12
