"""Training on two ranks: the same as on one, whatever happens to either. The ranks talk through Gloo."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

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
from pipeline.training.checkpoints import checkpoint_steps
from pipeline.training.distributed import CPU, Ranks, join_ranks
from pipeline.training.launch import LostRankError
from pipeline.training.loop import METRICS_FILE, TrainPlan, train
from pipeline.training.objectives import PretrainingLoss, Validation
from pipeline.training.optimizers import pretraining_optimizers, trapezoid
from tests.training.tiny import CONTEXT, tiny_config, tiny_objective, tiny_runtime, tiny_shard, tiny_tokenizer

STEPS = 10
ROWS = 8  # of a global batch
WEIGHTS = "weights.safetensors"
LOST, REFUSED, WRONG = 71, 72, 73  # exit statuses of a rank


def on_ranks(work: Callable[[Ranks], None], count: int = 2) -> list[int]:
    """Run `work` as each rank in a process of its own; the exit statuses, minus the signal of a killed one.

    The ranks are forks of a server that has imported torch and used none of its threads: a fork of this process, which
    has, may wait for them for ever.
    """
    port = free_port()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    processes = [context.Process(target=_one_rank, args=(work, rank, count, port)) for rank in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    return [int(process.exitcode or 0) for process in processes]


def _one_rank(work: Callable[[Ranks], None], rank: int, count: int, port: int) -> None:
    torch.set_num_threads(1)
    machine.matmul_flops_per_second = lambda runtime, size=0, repeats=0: 1e12  # takes half a second
    tells = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": LOOPBACK, "MASTER_PORT": port}
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
    strike: tuple[int, int, int] | None = None,
) -> None:
    """Train to `folder`, with a checkpoint every second step, and keep the weights beside it.

    Args:
        folder: of checkpoints and curve.
        ranks: that train together.
        objective, optimizer, micro_rows, dropout, dtype: what is trained, and how.
        strike: (signal, rank, step): this rank sends itself the signal in this step, counted from 1.
    """
    folder.mkdir(parents=True, exist_ok=True)
    runtime = replace(tiny_runtime(precision="float32"), ranks=ranks)
    learned = tiny_objective(objective)
    torch.manual_seed(1)
    model = Transformer(tiny_config(objective, dropout=dropout)).to(dtype)
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
        TrainPlan("pretrain", STEPS, 1.0, validate_every=5, checkpoint_every=2, flops_per_token=1e3),
        runtime,
        scratch=folder,
        validate=lambda: measure(model),
        report=lambda step, values: None,
    )
    weights = named_weights(model)
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


def train_arms(folder: Path, ranks: Ranks) -> None:
    for number, (_, arm) in enumerate(ARMS):
        train_tiny(folder / f"{ranks.size}-{number}", ranks, **arm)


def test_two_ranks_learn_as_one_does(tmp_path: Path) -> None:
    train_arms(tmp_path, Ranks())
    assert on_ranks(partial(train_arms, tmp_path)) == [0, 0]
    for number, (tolerance, _) in enumerate(ARMS):
        require_near(curve(tmp_path / f"2-{number}"), curve(tmp_path / f"1-{number}"), tolerance)


def require_near(found: list[dict[str, float]], expected: list[dict[str, float]], tolerance: float) -> None:
    """The losses of both curves, in training and validation, differ by at most this share of them."""
    losses, expected_losses = [
        [value for point in points for name, value in point.items() if name in ("loss", "validation_loss")]
        for points in (found, expected)
    ]
    assert len(expected_losses) == STEPS + 2
    assert losses == pytest.approx(expected_losses, rel=tolerance, abs=0)


def test_a_lost_rank_ends_the_others_and_a_restart_ends_in_the_same_bits(tmp_path: Path) -> None:
    whole = partial(train_tiny, tmp_path / "whole", dropout=0.2)
    cut = partial(train_tiny, tmp_path / "cut", dropout=0.2)
    assert on_ranks(whole) == [0, 0]
    assert on_ranks(partial(cut, strike=(signal.SIGKILL, 1, 6))) == [LOST, -signal.SIGKILL]
    assert checkpoint_steps(tmp_path / "cut")[-1] == 4
    assert on_ranks(cut) == [0, 0]
    assert (tmp_path / "whole" / WEIGHTS).read_bytes() == (tmp_path / "cut" / WEIGHTS).read_bytes()
    assert curve(tmp_path / "whole") == curve(tmp_path / "cut")


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


def train_apart(folder: Path, ranks: Ranks) -> None:
    train_tiny(folder / str(ranks.rank), ranks)


def test_ranks_that_do_not_see_the_same_checkpoint_are_refused(tmp_path: Path) -> None:
    train_tiny(tmp_path / "0", Ranks())
    assert on_ranks(partial(train_apart, tmp_path)) == [REFUSED, REFUSED]


def test_a_batch_that_ranks_do_not_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HallmarkError, match=r"8 rows of a batch do not divide among 3 ranks; allowed: 1, 2, 4, 8"):
        train_tiny(tmp_path, Ranks(rank=0, size=3))
