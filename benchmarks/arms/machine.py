"""What all arms run on, and the rate of the machine's matrix products."""

from typing import Any, NamedTuple

import torch

from benchmarks.turns import Clock
from pipeline.common.compiler import find_compiler
from pipeline.common.params import Compute
from pipeline.training.runtime import (
    choose_compile,
    choose_device,
    choose_precision,
    choose_runtime,
    matmul_flops_per_second,
)


class Machine(NamedTuple):
    """The best that is here, for the peers: torch is left as it comes, and need not be deterministic."""

    device: torch.device
    precision: torch.dtype
    compiled: bool


def best_compute(eager: bool = False, precision: str = "auto") -> Compute:
    """Compiled where there is a compiler, unless `eager`; in the fastest precision, unless one is named."""
    able = torch.cuda.is_available() or find_compiler() is not None
    return Compute.model_validate({"compile": "always" if able and not eager else "never", "precision": precision})


def best_machine(compute: Compute) -> Machine:
    device, _ = choose_device(compute)
    return Machine(device, choose_precision(compute, device)[0], choose_compile(compute, device, 0)[0])


def measure_matmul(clock: Clock, _settings: dict[str, Any]) -> None:
    """The rate, in FLOPs per second, of each round."""
    runtime = choose_runtime(best_compute(eager=True), 0)
    while True:
        clock.tick()
        clock.facts["rate"] = matmul_flops_per_second(runtime)
