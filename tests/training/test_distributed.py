"""Training on several ranks: the same as on one, whatever happens to either. The ranks talk through Gloo."""

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.common.errors import HallmarkError
from pipeline.common.files import read_jsonl, sha256_file
from pipeline.common.params import Pretrain
from pipeline.common.ports import LOOPBACK, free_port
from pipeline.common.processes import Interrupted
from pipeline.model.transformer import Transformer
from pipeline.model.weights import named_weights
from pipeline.training import runtime as machine
from pipeline.training.checkpoints import checkpoint_steps, read_checkpoint
from pipeline.training.distributed import CPU, Ranks, join_ranks
from pipeline.training.launch import LostRankError
from pipeline.training.loop import METRICS_FILE, TrainPlan, train
from pipeline.training.objectives import PretrainingLoss, Validation
from pipeline.training.optimizers import pretraining_optimizers, trapezoid
from pipeline.training.plan import plan_memory
from pipeline.training.sharding import (
    count_parts,
    describe_sharding,
    on_whole_matrices,
    own_part,
    part_like,
    shard_model,
    sum_over_parts,
    whole,
    whole_weights,
)
from tests.training.tiny import CONTEXT, tiny_config, tiny_objective, tiny_runtime, tiny_shard, tiny_tokenizer

STEPS = 8
ROWS = 8  # of a global batch
WEIGHTS = "weights.safetensors"
LOST, REFUSED, WRONG = 71, 72, 73  # exit statuses of a rank
SHARDINGS: tuple[Literal["none", "hybrid", "full"], ...] = ("none", "hybrid", "full")


def on_ranks(work: Callable[[Ranks], None], count: int = 2, on_a_node: int = 2) -> list[int]:
    """Run `work` as each rank in a process of its own; the exit statuses, minus the signal of a killed one.

    The ranks are forks of a server that has imported torch and used none of its threads: a fork of this process, which
    has, may wait for them for ever.
    """
    port = free_port()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torch.distributed.fsdp", "torch._dynamo"])  # the last two: for sharding
    processes = [context.Process(target=_one_rank, args=(work, rank, count, on_a_node, port)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [int(process.exitcode or 0) for process in processes]


def _one_rank(work: Callable[[Ranks], None], rank: int, count: int, on_a_node: int, port: int) -> None:
    torch.set_num_threads(1)
    machine.matmul_flops_per_second = lambda runtime: 1e12  # takes a sixth of a second
    tells = {"RANK": rank, "LOCAL_RANK": rank % on_a_node, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": on_a_node}
    tells |= {"MASTER_ADDR": LOOPBACK, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in tells.items()}
    code = WRONG
    try:
        with join_ranks(CPU, seed=1) as ranks:
            work(ranks)
        code = 0
    except Interrupted as error:
        code = 128 + error.signal_number
    except LostRankError:
        code = LOST
    except HallmarkError as error:
        print(error, flush=True)
        code = REFUSED
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def train_tiny(
    folder: Path,
    ranks: Ranks,
    *,
    objective: str = "causal",
    optimizer: Any = "muon",
    micro_rows: int = ROWS,
    dropout: float = 0.0,
    dtype: torch.dtype = torch.float32,
    precision: str = "float32",
    sharding: str = "none",
    strike: tuple[int, int, int] | None = None,
) -> None:
    """Train to `folder`, with a checkpoint every second step, and keep the weights beside it.

    Args:
        folder: of checkpoints and curve.
        ranks: that train together.
        objective, optimizer, micro_rows, dropout, dtype, precision, sharding: what is trained, and how.
        strike: (signal, rank, step): this rank sends itself the signal in this step, counted from 1.
    """
    folder.mkdir(parents=True, exist_ok=True)
    runtime = replace(tiny_runtime(precision=precision), ranks=ranks)
    learned = tiny_objective(objective)
    torch.manual_seed(1)
    model = Transformer(tiny_config(objective, dropout=dropout)).to(dtype)
    shard_model(model, sharding, ranks, runtime.precision)
    batches = learned.batches(tiny_shard(), ROWS * CONTEXT, micro_rows * CONTEXT, seed=1)
    batches.share(ranks.rank, ranks.size)
    measure = Validation(learned, tiny_shard(), tiny_tokenizer(), 4, runtime.device, ranks=ranks)
    inner, calls = PretrainingLoss(runtime), 0

    def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        if strike is not None and (ranks.rank, calls) == strike[1:]:
            os.kill(os.getpid(), strike[0])
        return inner(model, batch)

    train(
        model,
        loss,
        batches,
        pretraining_optimizers(model, Pretrain(optimizer=optimizer), trapezoid(STEPS, 0.1, 0.5)),
        TrainPlan("pretrain", STEPS, 1.0, validate_every=4, checkpoint_every=2, flops_per_token=1e3),
        runtime,
        scratch=folder,
        validate=lambda: measure(model),
        report=lambda step, values: None,
    )
    weights = whole_weights(model)
    own = folder / f".{ranks.rank}.{WEIGHTS}"
    save_file(weights, own)
    ranks.require_same("the weights", sha256_file(own))
    own.replace(folder / WEIGHTS)


def curve(folder: Path) -> list[dict[str, float]]:
    return read_jsonl(folder / METRICS_FILE)


# In float32 the order of additions decides the last bits, and AdamW's losses stay near. Muon, which computes in
# bfloat16, makes much of such bits, so the others are compared in float64: what is left then is the arithmetic.
ARMS: list[tuple[float, dict[str, Any]]] = [
    (1e-6, {"optimizer": "adamw"}),
    (1e-9, {"objective": "prefix-lm", "micro_rows": 3, "dtype": torch.float64}),
    (1e-9, {"objective": "mlm+nsp", "micro_rows": 1, "dtype": torch.float64}),
]


# What is sharded: AdamW's states, Muon's matrices, an encoder beside a decoder, and what is gathered in bfloat16.
SHARDED_ARMS: list[tuple[float, dict[str, Any]]] = [
    (1e-6, {"optimizer": "adamw"}),
    (1e-9, {"objective": "span-corruption", "micro_rows": 1, "dtype": torch.float64}),
    (1e-3, {"optimizer": "adamw", "precision": "bfloat16"}),
]
Arms = list[tuple[float, dict[str, Any]]]


def train_arms(folder: Path, arms: Arms, sharding: str, ranks: Ranks) -> None:
    for number, (_, arm) in enumerate(arms):
        train_tiny(folder / f"{number}", ranks, sharding=sharding, **arm)


def require_near_arms(found: Path, expected: Path, arms: Arms) -> None:
    for number, (tolerance, _) in enumerate(arms):
        require_near(curve(found / f"{number}"), curve(expected / f"{number}"), tolerance)


def test_two_ranks_learn_as_one_does(tmp_path: Path) -> None:
    train_arms(tmp_path / "one", ARMS, "none", Ranks())
    assert on_ranks(partial(train_arms, tmp_path / "two", ARMS, "none")) == [0, 0]
    require_near_arms(tmp_path / "two", tmp_path / "one", ARMS)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of SHARDED_ARMS trained by one process."""
    folder = tmp_path_factory.mktemp("alone")
    train_arms(folder, SHARDED_ARMS, "none", Ranks())
    return folder


@pytest.mark.parametrize(("sharding", "count"), [("full", 2), ("hybrid", 4)])
def test_sharded_ranks_learn_as_one_does(tmp_path: Path, alone: Path, sharding: str, count: int) -> None:
    """Four ranks are two nodes."""
    assert on_ranks(partial(train_arms, tmp_path, SHARDED_ARMS, sharding), count) == [0] * count
    require_near_arms(tmp_path, alone, SHARDED_ARMS)


def test_a_sharded_training_goes_on_with_any_ranks_and_sharding(tmp_path: Path, alone: Path) -> None:
    """On two ranks, one, and four, each with another sharding, from one kind of file."""
    arm = SHARDED_ARMS[1][1]
    stopped = partial(train_tiny, tmp_path, sharding="full", strike=(signal.SIGTERM, 1, 4 * 3), **arm)
    assert on_ranks(stopped) == [128 + signal.SIGTERM] * 2
    assert checkpoint_steps(tmp_path)[-1] == 3
    with pytest.raises(Interrupted):
        train_tiny(tmp_path, Ranks(), strike=(signal.SIGTERM, 0, 8 * 3 + 1), **arm)
    assert checkpoint_steps(tmp_path)[-1] == 6
    assert on_ranks(partial(train_tiny, tmp_path, sharding="hybrid", **arm), 4) == [0] * 4
    require_near(curve(tmp_path), curve(alone / "1"), 1e-9)
    (sharded, about), (whole, alike) = (read_checkpoint(folder, STEPS) for folder in (tmp_path, alone / "1"))
    assert about["progress"] == alike["progress"]
    assert {name: value.shape for name, value in sharded.items()} == {n: value.shape for n, value in whole.items()}
    torch.testing.assert_close(sharded["model.embedding.tokens.weight"], whole["model.embedding.tokens.weight"])
    assert {path.suffix for path in tmp_path.iterdir()} == {".safetensors", ".json", ".jsonl"}


def require_near(found: list[dict[str, float]], expected: list[dict[str, float]], tolerance: float) -> None:
    """The losses of both curves, in training and validation, differ by at most this share of them."""
    losses, expected_losses = [
        [value for point in points for name, value in point.items() if name in ("loss", "validation_loss")]
        for points in (found, expected)
    ]
    assert len(expected_losses) == STEPS + 2
    assert losses == pytest.approx(expected_losses, rel=tolerance, abs=0)


@pytest.mark.parametrize("sharding", ["none", "full"])
def test_a_lost_rank_ends_the_others_and_a_restart_ends_in_the_same_bits(tmp_path: Path, sharding: str) -> None:
    whole = partial(train_tiny, tmp_path / "whole", dropout=0.2, sharding=sharding)
    cut = partial(train_tiny, tmp_path / "cut", dropout=0.2, sharding=sharding)
    assert on_ranks(whole) == [0, 0]
    assert on_ranks(partial(cut, strike=(signal.SIGKILL, 1, 6))) == [LOST, -signal.SIGKILL]
    assert checkpoint_steps(tmp_path / "cut")[-1] == 4
    assert on_ranks(cut) == [0, 0]
    assert (tmp_path / "whole" / WEIGHTS).read_bytes() == (tmp_path / "cut" / WEIGHTS).read_bytes()
    assert curve(tmp_path / "whole") == curve(tmp_path / "cut")


def cut_and_gather(ranks: Ranks) -> None:
    torch.manual_seed(1)
    model = Transformer(tiny_config("causal"))
    before = named_weights(model)
    shard_model(model, "full", ranks, torch.float32)
    held = sum(own_part(parameter).numel() for parameter in model.parameters())
    total = sum(weight.numel() for weight in before.values())
    assert held < 0.51 * total
    assert sum_over_parts(list(model.parameters()), torch.tensor(held)) == total
    model.hidden_states(torch.zeros(1, 4, dtype=torch.int64))  # leaves what is outside of the blocks gathered
    after = whole_weights(model)
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    assert whole_weights(model, keep=False) == {}
    like = next(parameter for parameter in model.parameters() if parameter.ndim == 2)
    for count in (1, 3, 4):  # fewer matrices than ranks, more, and as many on each
        matrices = torch.randn(count, *like.shape)
        parts = torch.stack([part_like(matrix, like) for matrix in matrices])
        assert own_part(parts).numel() < matrices.numel()
        torch.testing.assert_close(whole(on_whole_matrices(of_norm_one, parts)), of_norm_one(matrices))


def of_norm_one(matrices: Tensor) -> Tensor:
    return matrices / matrices.norm(dim=(1, 2), keepdim=True)


def test_weights_are_cut_and_matrices_made_whole_for_muon() -> None:
    assert on_ranks(cut_and_gather) == [0, 0]


def test_a_sharded_plan_counts_what_a_rank_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    model, config = Transformer(tiny_config("causal")), tiny_config("causal")
    four = replace(tiny_runtime(precision="float32"), ranks=Ranks(size=4))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    none, hybrid, full = (
        plan_memory(model, config, Pretrain(sharding=sharding), tiny_objective("causal"), 2, four).parts
        for sharding in SHARDINGS
    )
    assert full["optimizer"] * 4 == hybrid["optimizer"] * 2 == none["optimizer"]
    assert full["gradients"] < hybrid["gradients"]
    assert full["checkpoint"] == none["checkpoint"]  # the first rank writes all
    assert full["activations"] == none["activations"]
    assert describe_sharding("none", four.ranks) == {}
    assert "in 2 parts, on 4 ranks" in describe_sharding("hybrid", four.ranks)["sharding"]
    assert "only one rank" in describe_sharding("full", Ranks())["sharding"]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(HallmarkError, match=r"4 ranks are not as many on every node; here are 3"):
        count_parts("hybrid", four.ranks)


def test_a_signal_to_one_rank_saves_and_stops_both_and_one_goes_on(tmp_path: Path) -> None:
    """Without dropout, whose random numbers follow from the rank."""
    struck = partial(train_tiny, tmp_path / "two", dtype=torch.float64, strike=(signal.SIGTERM, 1, 5))
    assert on_ranks(struck) == [128 + signal.SIGTERM] * 2
    assert checkpoint_steps(tmp_path / "two")[-1] == 5
    for folder in ("two", "one"):
        train_tiny(tmp_path / folder, Ranks(), dtype=torch.float64)
    require_near(curve(tmp_path / "two"), curve(tmp_path / "one"), 1e-9)


def add_compare_and_draw(folder: Path, ranks: Ranks) -> None:
    tensors = [torch.full((3, 2), 1.0 + ranks.rank), torch.tensor(2 + ranks.rank), torch.ones(1)]
    ranks.sum_(tensors)
    assert [tensor.tolist() for tensor in tensors] == [[[3.0, 3.0]] * 3, 5, [2.0]]
    assert ranks.any(ranks.rank == 1)
    assert not ranks.any(False)
    drawn = []
    for step in (0, 1, 0):
        ranks.seed_step(step)
        drawn.append(torch.rand(3).tolist())
    assert drawn[0] == drawn[2] != drawn[1]
    ranks.require_same("what is equal", "a")
    (folder / f"{ranks.rank}").write_text(repr(drawn))
    with pytest.raises(HallmarkError, match=r"the step is not the same on all 2 ranks; rank \d has \d"):
        ranks.require_same("the step", str(ranks.rank))


def test_ranks_add_compare_and_draw(tmp_path: Path) -> None:
    assert on_ranks(partial(add_compare_and_draw, tmp_path)) == [0, 0]
    assert (tmp_path / "0").read_text() != (tmp_path / "1").read_text()


def fail(error: str, ranks: Ranks) -> None:
    if ranks.rank == 1:
        raise {"device": torch.AcceleratorError("CUDA error: uncorrectable ECC error"), "bug": RuntimeError()}[error]
    ranks.any(True)


def test_a_fault_of_a_device_loses_a_rank_and_a_bug_does_not() -> None:
    assert on_ranks(partial(fail, "device")) == [LOST, LOST]
    assert on_ranks(partial(fail, "bug")) == [LOST, WRONG]


def train_apart(folder: Path, ranks: Ranks) -> None:
    train_tiny(folder / str(ranks.rank), ranks)


def test_ranks_that_do_not_see_the_same_checkpoint_are_refused(tmp_path: Path) -> None:
    train_tiny(tmp_path / "0", Ranks())
    assert on_ranks(partial(train_apart, tmp_path)) == [REFUSED, REFUSED]


def test_a_batch_that_ranks_do_not_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HallmarkError, match=r"8 rows of a batch do not divide among 3 ranks; allowed: 1, 2, 4, 8"):
        train_tiny(tmp_path, Ranks(rank=0, size=3))
