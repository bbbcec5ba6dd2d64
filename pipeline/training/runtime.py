"""Device, precision and compilation: decided once, by fixed rules, before the first step.

The rules look at the machine and at the size of the run, never at a timing, since the choice changes the bits.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from pipeline.common.compiler import find_compiler, prepare_inductor
from pipeline.common.errors import HallmarkError
from pipeline.common.params import Compute
from pipeline.model.amx.library import has_amx
from pipeline.model.attention import Attention
from pipeline.model.block import Block, Stack
from pipeline.model.feed_forward import FeedForward
from pipeline.model.linear import Linear
from pipeline.model.token_loss import TokenLoss
from pipeline.model.transformer import Embedding
from pipeline.training.distributed import Ranks
from pipeline.training.heap import keep_freed_memory
from pipeline.training.inductor import change_inductor

P = ParamSpec("P")
R = TypeVar("R")

# Compiling a 4-layer network took 12 to 25 s on 2 cores and made its steps 2.4 times as fast, from about 0.27 TFLOP/s:
# it pays for itself from about 35 s of eager training on, which is 1e13 FLOPs. On an H200 it took 20 s; it saved 2 of
# 14 ms a step at 11 million parameters and 0.6 TFLOP, both replayed, and 98 of 180 at 124 million and 28 TFLOP.
# For texts of any length it took 26 to 43 s on 2 cores and saved a fifth to a half of a step: the time it took was back
# after 1.6e13 to 2.4e13 FLOPs, with AMX instructions or without.
COMPILE_PAYS_FROM_FLOPS = {"cpu": 1e13, "cpu, any length": 2e13, "cuda": 6e15}

# On an H200, eager, in ms: a step of 0.6 TFLOP 36 as written and 14 replayed, 3.5 TFLOP 59 and 28, 7 TFLOP 60 and 42.
# With more to do, the GPU is the slower one, and gradients that stay in their places cost memory: 0.7 of 11.8 GB there.
REPLAY_PAYS_BELOW_FLOPS = 1e13

MOST_SHAPES = 64  # that torch compiles of one part, before it refuses


@dataclass(frozen=True)
class Runtime:
    """What a network runs on."""

    device: torch.device
    precision: torch.dtype
    compile: bool
    reasons: dict[str, str]
    ranks: Ranks = field(default_factory=Ranks)
    any_length: bool = False  # one compilation is for rows of every length

    @cached_property
    def matmul_rate(self) -> float:
        """FLOPs per second of this machine's matrix products, of one rank; measured once, when first asked for."""
        return matmul_flops_per_second(self)

    @cached_property
    def uses_amx(self) -> bool:
        """Whether a training asks for the operations of `pipeline.model.amx`."""
        return self.compile and self.device.type == "cpu" and self.precision == torch.bfloat16 and has_amx()

    @property
    def bound_to(self) -> dict[str, str]:
        """What of this process decides the bits of a training, beside its settings and versions.

        oneDNN cuts the sums of bfloat16 products, of more than 512, as is fastest on so many threads: by AMX often,
        else rarely, from 4 threads on. Its `deterministic` attribute does not keep it from that. Gradients of weights
        are made in parts for it (`pipeline.model.linear`); products over a wide network's features are not.
        """
        if self.device.type == "cpu" and self.precision == torch.bfloat16:
            return {"threads": str(torch.get_num_threads())}
        return {}

    def replays(self, flops: float) -> bool:
        """Whether a batch of so many FLOPs is recorded as a CUDA graph, see `pipeline.training.replay`; only alone, as
        ranks wait for one another.
        """
        return self.device.type == "cuda" and self.ranks.size == 1 and flops < REPLAY_PAYS_BELOW_FLOPS

    def compile_blocks(self, model: nn.Module) -> None:
        """Compile every block, the norms before and behind them and a `TokenLoss` in place, if this runtime compiles.
        Blocks are alike, so all share one compilation.

        Compiling the whole network instead took twice as long and its steps were a fifth slower.
        """
        if self.compile:
            how: Any = {"dynamic": self.any_length, "recompile_limit": MOST_SHAPES}
            for module in model.modules():
                if isinstance(module, Stack):
                    module.is_compiled = True
                if isinstance(module, Attention | FeedForward | Linear):
                    module.by_amx = self.uses_amx
                if isinstance(module, Block | TokenLoss):
                    module.compile(**how)
                elif isinstance(module, Stack | Embedding) and not isinstance(module.norm, nn.Identity):
                    module.norm.compile(**how)

    def compiled(self, function: Callable[P, R]) -> Callable[P, R]:
        """`function`, compiled if this runtime compiles."""
        return torch.compile(function, dynamic=False) if self.compile else function

    def send(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch on its way to the device: to a GPU it is copied from pinned memory while the GPU works."""
        if self.device.type != "cuda":
            return batch
        return {name: value.pin_memory().to(self.device, non_blocking=True) for name, value in batch.items()}

    @contextmanager
    def eager(self) -> Iterator[None]:
        """Run compiled parts eagerly: measuring is too short to pay for compiling them once more without gradients."""
        with torch.compiler.set_stance("force_eager"):
            yield

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """Matrix products in `precision`; weights, sums and losses stay in float32."""
        with torch.autocast(self.device.type, dtype=self.precision, enabled=self.precision != torch.float32):
            yield


def choose_runtime(compute: Compute, total_flops: float, ranks: Ranks | None = None, *, shapes: int = 1) -> Runtime:
    """Choose by `compute` and the FLOPs of the whole run; makes torch deterministic as a side effect.

    Args:
        compute: the settings.
        total_flops: of all ranks together.
        ranks: that train together; None: this process alone.
        shapes: of batches. On a CPU one compilation serves all, on a GPU each is compiled on its own.

    Raises:
        HallmarkError: `compute` names a device or a compiler that is not here.
    """
    ranks = ranks or Ranks()
    device, device_reason = choose_device(compute)
    precision, precision_reason = choose_precision(compute, device)
    any_length = device.type == "cpu" and shapes > 1
    flops = total_flops / ranks.size / (1 if any_length else shapes)
    compiled, compile_reason = choose_compile(compute, device, flops, any_length=any_length)
    prepare_inductor()  # first: torch's switch below imports Inductor
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # Without it the compiled embedding gradient is summed with atomic adds: three runs, three results.
    torch.use_deterministic_algorithms(True)
    # A guard against reading what nothing wrote, paid for at every tensor; the switch above turns it on.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    if device.type == "cpu":
        keep_freed_memory()
        if compiled:
            change_inductor()
    reasons = {"device": device_reason, "precision": precision_reason, "compile": compile_reason}
    if ranks.size > 1:
        reasons["ranks"] = f"{ranks.size}, each on its share of every batch"
    runtime = Runtime(device, precision, compiled, reasons, ranks, any_length=any_length)
    for name, value in runtime.bound_to.items():
        reasons[name] = f"{value} (with others bfloat16 products may have other bits)"
    return runtime


def choose_device(compute: Compute) -> tuple[torch.device, str]:
    has_cuda = torch.cuda.is_available()
    if compute.device == "cuda" and not has_cuda:
        raise HallmarkError(
            "torch sees no CUDA device here",
            where="params.yaml: compute.device",
            fix="hallmark doctor, or device: auto",
        )
    if compute.device == "cuda" or (compute.device == "auto" and has_cuda):
        here, count = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
        if here >= count:
            raise HallmarkError(
                f"there are more processes than CUDA devices, which are {count}",
                where="params.yaml: pretrain.processes",
                fix="null is one process for each; with torchrun, --nproc-per-node gpu",
            )
        return torch.device("cuda", here), f"cuda ({torch.cuda.get_device_name(here)})"
    return torch.device("cpu"), f"cpu ({'asked for' if compute.device == 'cpu' else 'no CUDA device here'})"


def choose_precision(compute: Compute, device: torch.device) -> tuple[torch.dtype, str]:
    if compute.precision != "auto":
        return getattr(torch, compute.precision), f"{compute.precision} (asked for)"
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = cpu_has_bfloat16()
    if fast:
        return torch.bfloat16, "bfloat16 (the processor has instructions for it)"
    return torch.float32, "float32 (the processor has no bfloat16 instructions)"


def cpu_has_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware (AVX512-BF16 or AMX)."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def choose_compile(
    compute: Compute, device: torch.device, total_flops: float, *, any_length: bool = False
) -> tuple[bool, str]:
    able = device.type == "cuda" or find_compiler() is not None
    if compute.compile == "always":
        if not able:
            raise HallmarkError(
                "there is no C++ compiler here",
                where="params.yaml: compute.compile",
                fix="install g++, or compile: auto",
            )
        return True, "compiled (asked for)"
    if compute.compile == "never":
        return False, "eager (asked for)"
    if not able:
        return False, "eager (no C++ compiler here)"
    least = COMPILE_PAYS_FROM_FLOPS[device.type + (", any length" if any_length else "")]
    size = f"{total_flops:.1e} FLOPs, compiling pays from {least:.0e}"
    if total_flops < least:
        return False, f"eager ({size})"
    return True, f"compiled ({size})"


MATRIX_ROWS = {"cpu": 1024, "cuda": 8192}
PRODUCTS = {"cpu": 2, "cuda": 20}  # timed together; on a CPU, 20 gave the same figure within a hundredth


def matmul_flops_per_second(runtime: Runtime) -> float:
    """The rate of this machine's matrix products in the run's precision: the 100 % of the MFU that is printed.

    Of random values: with ones, a GPU needs less power and is faster than it ever is at work.
    """
    import time

    device = runtime.device.type
    size, repeats, generator = MATRIX_ROWS[device], PRODUCTS[device], torch.Generator(runtime.device)
    a = torch.randn(size, size, device=runtime.device, generator=generator).to(runtime.precision)
    a @ a
    best = float("inf")
    for _ in range(3):
        _wait_for(runtime.device)
        started = time.perf_counter()
        for _ in range(repeats):
            a @ a
        _wait_for(runtime.device)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 * repeats / best


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
