"""The plan of memory, time and cost against what torch saves, allocates and holds; and what is said when it fails."""

from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile

from pipeline.common.errors import HallmarkError
from pipeline.common.params import Compute, Pretrain
from pipeline.model.accounting import Shape, activation_bytes, low_precision_bytes
from pipeline.model.transformer import Transformer
from pipeline.training.loop import Batch
from pipeline.training.objectives import Objective, PretrainingLoss
from pipeline.training.optimizers import pretraining_optimizers, trapezoid
from pipeline.training.plan import (
    USABLE,
    MemoryPlan,
    available_memory,
    choose_micro_batch,
    describe_cost,
    duration,
    even_parts,
    explain_out_of_memory,
    fit_micro_batch,
    optimizer_bytes,
    plan_memory,
    whole_memory,
)
from pipeline.training.runtime import Runtime
from tests.training.tiny import PRESETS, tiny_config, tiny_objective, tiny_runtime, tiny_shard

ROWS = 6
CASES: list[tuple[str, dict[str, Any]]] = [
    *((objective, {}) for objective in PRESETS),
    *((objective, {"hidden_size": 64, "intermediate_size": 128, "num_heads": 4}) for objective in PRESETS),
    ("causal", {"preset": "gpt2"}),
    ("mlm", {"preset": "modernbert"}),
    ("span-corruption", {"preset": "transformer-2017"}),
    ("causal", {"num_heads": 4, "num_kv_heads": 1}),
    ("causal", {"dropout": 0.1, "attention_dropout": 0.1}),
    ("causal", {"feed_forward": "relu2", "positions": "alibi", "norm_placement": "post"}),
]


def tiny_training(
    name: str, precision: str = "bfloat16", **changes: Any
) -> tuple[Transformer, Objective, Runtime, Batch]:
    """A model, its objective and one micro-batch of `ROWS` rows."""
    objective, runtime = tiny_objective(name), tiny_runtime(precision=precision)
    torch.manual_seed(1)
    model = Transformer(tiny_config(name, **changes))
    micro_batches, _ = next(objective.batches(tiny_shard(), ROWS * objective.row_length, None, 1))
    return model, objective, runtime, micro_batches[0]


def shape_of(objective: Objective) -> Shape:
    return Shape(ROWS, objective.row_length, round(objective.target_share * objective.row_length))


def saved_bytes(model: Transformer, runtime: Runtime, batch: Batch) -> int:
    """What autograd keeps of a forward pass, besides weights and inputs; each storage counted once."""
    known = {tensor.untyped_storage().data_ptr() for tensor in (*model.state_dict().values(), *batch.values())}
    known |= {buffer.untyped_storage().data_ptr() for buffer in model.buffers()}
    kept: dict[int, Any] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage  # held, so that no other storage gets its address
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor), runtime.autocast():
        PretrainingLoss(runtime)(model, batch)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(("name", "changes"), CASES, ids=str)
def test_activations_are_what_autograd_saves(name: str, changes: dict[str, Any], precision: str) -> None:
    model, objective, runtime, batch = tiny_training(name, precision, **changes)
    assert model.lm_head is not None
    value_bytes, shape = 2 if precision == "bfloat16" else 4, shape_of(objective)
    planned = activation_bytes(model.config, shape, value_bytes) + low_precision_bytes(model, value_bytes)
    planned += 4 * sum(weight.numel() for weight in model.lm_head.parameters(recurse=False))  # made with the loss
    assert planned == pytest.approx(saved_bytes(model, runtime, batch), rel=0.08)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_peak_of_a_backward_pass_is_the_plans(precision: str) -> None:
    model, objective, runtime, batch = tiny_training("causal", precision, hidden_size=64, intermediate_size=128)
    loss = PretrainingLoss(runtime)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler, runtime.autocast():
        loss(model, batch)[0].backward()
    assert profiler.profiler is not None
    results = profiler.profiler.kineto_results
    assert results is not None
    events: list[Any] = [event for event in results.events() if event.name() == "[memory]"]
    allocated = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        allocated += event.nbytes()
        peak = max(peak, allocated)
    parts = plan_memory(model, model.config, Pretrain(), objective, ROWS, runtime).parts
    weights = 4 * sum(weight.numel() for weight in model.parameters())
    planned = parts["activations"] + parts["logits"] + parts["weights"] - weights  # the weights were there before
    assert planned == pytest.approx(peak, rel=0.1)


def test_logits_in_parts_need_the_memory_of_one() -> None:
    model, objective, runtime, _ = tiny_training("causal")

    def planned(**changes: int) -> int:
        settings = Pretrain.model_validate(changes)
        return plan_memory(model, model.config, settings, objective, ROWS, runtime).parts["logits"]

    assert planned() == planned(logit_tokens=10**9) == 12 * ROWS * objective.row_length * model.config.vocab_size
    assert planned(logit_tokens=7) == 12 * 7 * model.config.vocab_size


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_the_optimizers_state_is_what_is_planned(optimizer: str) -> None:
    model, _, runtime, batch = tiny_training("mlm+nsp")
    settings = Pretrain.model_validate({"optimizer": optimizer})
    optimizers = pretraining_optimizers(model, settings, trapezoid(2, 0.0, 0.0))
    PretrainingLoss(runtime)(model, batch)[0].backward()
    optimizers.step(0)
    held = sum(state.nbytes for state in optimizers.state_tensors().values() if state.ndim)  # AdamW counts its steps
    assert optimizer_bytes(model, settings) == held


def of_rows(rows: int) -> MemoryPlan:
    return MemoryPlan({"weights": 100, "activations": 10 * rows}, Shape(rows, 8, 8))


@given(rows=st.integers(1, 200), usable=st.integers(0, 3000))
def test_the_micro_batch_is_the_largest_even_part_that_fits(rows: int, usable: int) -> None:
    sizes = even_parts(rows)
    assert all(rows % size == 0 for size in sizes)
    fitting = [size for size in range(1, rows + 1) if rows % size == 0 and 100 + 10 * size <= usable]
    if fitting:
        assert fit_micro_batch(map(of_rows, sizes), usable).shape.rows == max(fitting)
    else:
        with pytest.raises(HallmarkError, match="not even one row at a time fits"):
            fit_micro_batch(map(of_rows, sizes), usable)


def test_auto_is_the_whole_batch_where_it_fits_and_else_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    model, objective, runtime, _ = tiny_training("causal")
    auto = Pretrain.model_validate({"micro_batch_tokens": "auto"})

    def chosen(settings: Pretrain, rows: int = 12) -> tuple[int, str]:
        plan, how = choose_micro_batch(model, model.config, settings, objective, rows, runtime)
        return plan.shape.rows, how

    assert chosen(auto)[0] == 12
    assert chosen(Pretrain()) == (12, "the whole batch")
    assert chosen(Pretrain(micro_batch_tokens=5 * objective.row_length + 1)) == (5, "set")
    assert chosen(Pretrain(micro_batch_tokens=1)) == (1, "set")
    of_five = plan_memory(model, model.config, auto, objective, 5, runtime).total
    memory = int(of_five / USABLE["cpu"]) + 1  # of a machine on which five rows fit just so
    monkeypatch.setattr("pipeline.training.plan.whole_memory", lambda device: memory)
    rows, how = chosen(auto)
    assert rows == 4
    assert how.startswith("auto: the most rows that divide the batch and fit into 60% of ")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000")
    with pytest.raises(HallmarkError, match="not even one row"):
        chosen(auto)


def test_a_plan_that_does_not_fit_names_the_largest_part_and_what_to_lower() -> None:
    parts = {"weights": 100, "gradients": 100, "optimizer": 150, "activations": 4_000_000, "logits": 900}
    plan = MemoryPlan(parts, Shape(4, 8, 8))
    plan.refuse_if_over(plan.total)
    with pytest.raises(HallmarkError) as caught:
        plan.refuse_if_over(plan.total - 1)
    assert str(caught.value).startswith("params.yaml: pretrain.micro_batch_tokens: the training does not fit: 4 MB")
    assert "the largest part: activations, 4 MB of 4 MB planned" in str(caught.value)
    others: list[tuple[dict[str, int], int, str]] = [
        ({}, 1, "model.context_length"),
        ({"gradients": 5_000_000}, 4, "model.depth"),
        ({"logits": 5_000_000}, 4, "pretrain.logit_tokens"),
    ]
    for changed, rows, key in others:
        error = MemoryPlan(parts | changed, Shape(rows, 8, 8)).refuse("it does not fit")
        assert error.where == f"params.yaml: {key}"
        assert error.fix is not None
        assert "dvc repro" in error.fix


def test_running_out_of_memory_is_told_by_the_plan() -> None:
    plan = MemoryPlan({"weights": 100, "logits": 2_000_000_000}, Shape(4, 8, 8))
    told = r"DefaultCPUAllocator: can't allocate.*logits, 2,000 MB"
    with pytest.raises(HallmarkError, match=told), explain_out_of_memory(plan):
        torch.empty(2**60)
    with pytest.raises(HallmarkError, match=r"out of memory.*logits"), explain_out_of_memory(plan):
        bytearray(2**62)
    with pytest.raises(HallmarkError, match=r"CUDA out of memory"), explain_out_of_memory(plan):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    with pytest.raises(RuntimeError, match="shapes"), explain_out_of_memory(plan):
        nn.Linear(2, 2)(torch.ones(3))


def test_what_is_there_is_the_machines() -> None:
    cpu = torch.device("cpu")
    assert whole_memory(cpu) == whole_memory(cpu)
    assert 0 < available_memory(nn.Linear(2, 2), cpu) <= whole_memory(cpu)


def test_time_and_cost_follow_from_flops() -> None:
    told = describe_cost(3.6e15, tiny_runtime(), Compute(price_per_hour=2.0))
    assert told["training_flops"] == "3.600e+15"
    assert told["predicted_time"].startswith("3.3 h (30% of 1,000 GFLOP/s, measured")
    assert told["predicted_cost"] == "6.67 (2 per hour)"
    assert "predicted_cost" not in describe_cost(1.0, tiny_runtime(), Compute())
    assert [duration(seconds) for seconds in (3, 200, 9000, 400_000)] == ["3 s", "3.3 min", "2.5 h", "4.6 days"]


def test_a_stage_depends_on_all_of_compute_but_the_price_and_the_restarts() -> None:
    """A new price must not train anything anew."""
    others = {"price_per_hour", "restarts", "min_processes"}
    deciding = {f"compute.{name}" for name in Compute.model_fields.keys() - others}
    with open("dvc.yaml", encoding="utf-8") as file:
        stages = yaml.safe_load(file)["stages"]
    for name, stage in stages.items():
        params = {key for key in stage.get("do", stage).get("params", []) if key.partition(".")[0] == "compute"}
        assert params in (set(), {"compute.device"}, deciding), name  # asking a model is not compiled, and in float32
