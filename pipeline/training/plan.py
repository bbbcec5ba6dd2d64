"""The plan of a pretraining before its first step: what it needs of memory, time and money, against what is there.

What autograd keeps is counted in `pipeline.model.accounting`. Tests compare the counts with what torch saves and
allocates; docs/scaling.md has the figures.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from pipeline.common.errors import HallmarkError
from pipeline.common.params import Compute, Pretrain
from pipeline.model.accounting import Shape, activation_bytes, logit_bytes, low_precision_bytes
from pipeline.model.block import Block
from pipeline.model.config import ModelConfig
from pipeline.training.cross_entropy import PART
from pipeline.training.objectives import Objective
from pipeline.training.optimizers import split_parameters
from pipeline.training.runtime import Runtime
from pipeline.training.sharding import count_parts

MB = 1e6
FLOAT = 4
# What a plan for `auto` may take of the whole memory. On a CPU a process came to hold 1.2 to 1.4 times what its
# tensors need, since the C library keeps freed pieces, and others live there, too.
USABLE = {"cpu": 0.6, "cuda": 0.85}
# Share of the measured matrix-product rate that a training reaches, compiled and eager. The default network reached 0.5
# to 0.6 on a CPU, compiled, in bfloat16; float32 products are so slow there that the rest hardly counts. 124 million
# parameters reached 0.44 to 0.49 on an H200, compiled, in bfloat16. The other shares are assumed.
REACHED = {
    ("cpu", torch.bfloat16): (0.6, 0.3),
    ("cpu", torch.float32): (0.8, 0.8),
    ("cuda", torch.bfloat16): (0.45, 0.25),
    ("cuda", torch.float32): (0.6, 0.5),
}
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")

# What can be lowered for each part: (key of params.yaml, what to do).
MICRO_BATCH = ("pretrain.micro_batch_tokens", "lower it (auto takes the most that fits)")
SMALLER = ("model.depth", "lower it, or model.hidden_size")
SHORTER = ("model.context_length", "lower it: one row is all that a micro-batch holds; or lower model.depth")
REMEDIES = {
    "weights": SMALLER,
    "gradients": SMALLER,
    "optimizer": SMALLER,
    "checkpoint": SMALLER,
    "activations": MICRO_BATCH,
    "logits": ("pretrain.logit_tokens", "set it, or lower it, to 2048, say"),
}


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes by part, for one process, while a micro-batch of this shape is in work.

    Attributes:
        parts: weights (with autocast's copies), gradients, optimizer (Muon has one buffer per weight, AdamW two),
            activations, logits and, on a CPU, the copy that a checkpoint is written from.
        shape: of the micro-batch.
    """

    parts: Mapping[str, int]
    shape: Shape

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def largest(self) -> str:
        return max(self.parts, key=lambda name: self.parts[name])

    def listing(self) -> str:
        return ", ".join(f"{name} {count / MB:,.0f}" for name, count in self.parts.items())

    def refuse(self, what: str) -> HallmarkError:
        """The error for a training that this plan is too large for."""
        key, remedy = REMEDIES[self.largest]
        if key == MICRO_BATCH[0] and self.shape.rows == 1:
            key, remedy = SHORTER
        largest = f"the largest part: {self.largest}, {self.parts[self.largest] / MB:,.0f} MB"
        return HallmarkError(
            f"{what}; {largest} of {self.total / MB:,.0f} MB planned ({self.listing()})",
            where=f"params.yaml: {key}",
            fix=f"{remedy}, then dvc repro",
        )

    def refuse_if_over(self, available: int) -> None:
        """Raise HallmarkError if the plan needs more than is there."""
        if self.total > available:
            raise self.refuse(f"the training does not fit: {available / MB:,.0f} MB of memory are free for it")


def plan_memory(
    model: nn.Module, config: ModelConfig, settings: Pretrain, objective: Objective, rows: int, runtime: Runtime
) -> MemoryPlan:
    """Plan a training with micro-batches of `rows` rows.

    Compiled blocks keep less than is planned for the activations: 0.5 to 0.95 of it. Where the weights are sharded, a
    rank holds its part and what it gathers: two blocks at a time, and the rest from the forward to the backward pass.
    """
    shape = Shape(rows, objective.row_length, max(1, round(objective.target_share * objective.row_length)))
    value_bytes = torch.finfo(runtime.precision).bits // 8
    on_cpu = runtime.device.type == "cpu"
    weights = FLOAT * sum(weight.numel() for weight in model.parameters())
    optimizer = optimizer_bytes(model, settings)
    cut = count_parts(settings.sharding, runtime.ranks)
    gathered = gathered_bytes(model, value_bytes) if cut > 1 else low_precision_bytes(model, value_bytes)
    parts = {
        "weights": weights // cut + gathered,
        "gradients": weights // cut + (gathered if cut > 1 else 0),
        "optimizer": optimizer // cut,
        "activations": activation_bytes(config, shape, value_bytes, written_out=not is_fused(config, runtime)),
        "logits": logit_bytes(config, shape, settings.logit_tokens or PART[runtime.device.type]),
    }
    if on_cpu:
        parts["checkpoint"] = weights + optimizer
    return MemoryPlan(parts, shape)


def gathered_bytes(model: nn.Module, value_bytes: int) -> int:
    """What a rank gathers of sharded weights at once: two blocks in the run's precision, and all outside of blocks."""
    blocks = [
        sum(weight.numel() for weight in module.parameters()) for module in model.modules() if isinstance(module, Block)
    ]
    outside = sum(weight.numel() for weight in model.parameters()) - sum(blocks)
    copies = value_bytes if value_bytes < FLOAT else 0  # autocast's
    return 2 * value_bytes * max(blocks, default=0) + (FLOAT + copies) * outside


def is_fused(config: ModelConfig, runtime: Runtime) -> bool:
    """Whether the weights of attention are never held: torch's fused kernels do not take every combination of parts.

    Seen on an H200 with torch 2.11, by the peaks of memory: where a kernel is missing, torch writes the weights out.
    """
    if runtime.device.type == "cpu" or config.positions == "relative":  # its scores are trained
        return False
    is_float32 = runtime.precision == torch.float32
    if config.positions == "alibi":
        return is_float32
    return config.kv_heads == config.num_heads or not is_float32


def optimizer_bytes(model: nn.Module, settings: Pretrain) -> int:
    """Muon's one buffer for each matrix of the blocks, AdamW's two for each other weight, all in float32."""
    matrices, tables, vectors = split_parameters(model)
    buffers = 1 if settings.optimizer == "muon" else 2
    others = sum(weight.numel() for weight in tables + vectors)
    return FLOAT * (buffers * sum(weight.numel() for weight in matrices) + 2 * others)


def whole_memory(device: torch.device) -> int:
    """The bytes of the machine's memory, or of the container's, or of the GPU: the same whenever it is asked."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    import psutil

    return min([psutil.virtual_memory().total, *_cgroup_limits()])


def available_memory(model: nn.Module, device: torch.device) -> int:
    """The bytes that this process can have now, with what its weights hold already."""
    held = sum(weight.nbytes for weight in model.parameters() if weight.device.type == device.type)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + held
    import psutil

    used = psutil.Process().memory_info().rss
    free = min([psutil.virtual_memory().available, *(limit - used for limit in _cgroup_limits())])
    return free // processes_here() + held


def _cgroup_limits() -> list[int]:
    texts = [Path(path).read_text(encoding="ascii").strip() for path in CGROUP_LIMITS if Path(path).exists()]
    return [int(text) for text in texts if text.isdigit()]


def processes_here() -> int:
    """How many ranks share this machine's memory, as torchrun tells."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))


def fit_micro_batch(plans: Iterator[MemoryPlan], usable: float) -> MemoryPlan:
    """The first of the plans, largest micro-batch first, that needs at most `usable` bytes.

    Raises:
        HallmarkError: none does.
    """
    plan = None
    for plan in plans:
        if plan.total <= usable:
            return plan
    assert plan is not None, "a batch has a row"
    raise plan.refuse(f"not even one row at a time fits into {usable / MB:,.0f} MB")


def even_parts(rows: int) -> list[int]:
    """The sizes of micro-batches that divide a batch without rest, largest first: all have one shape to compile."""
    return [size for size in range(rows, 0, -1) if rows % size == 0]


def choose_micro_batch(
    model: nn.Module, config: ModelConfig, settings: Pretrain, objective: Objective, rows: int, runtime: Runtime
) -> tuple[MemoryPlan, str]:
    """The plan to train by, and how its micro-batch was chosen.

    `auto` looks at how much memory there is, never at how much happens to be free, since the size of the micro-batch
    changes the order of additions and with it the last bits.

    Args:
        model: with its weights on `runtime.device`, or not yet.
        config: its shape.
        settings: pretrain of params.yaml.
        objective: makes the rows.
        rows: of a global batch that this process computes.
        runtime: device and precision.

    Raises:
        HallmarkError: `auto` and not even one row fits.
    """

    def plan(size: int) -> MemoryPlan:
        return plan_memory(model, config, settings, objective, size, runtime)

    asked = settings.micro_batch_tokens
    if asked != "auto":
        found = plan(min(rows, max(1, (asked or settings.batch_tokens) // objective.row_length)))
        return found, "set" if asked else "the whole batch"
    whole = whole_memory(runtime.device)
    shared = processes_here() if runtime.device.type == "cpu" else 1
    usable = USABLE[runtime.device.type] * whole / shared
    found = fit_micro_batch(map(plan, even_parts(rows)), usable)
    share = f"{USABLE[runtime.device.type]:.0%} of {whole / MB:,.0f} MB" + (f" / {shared}" if shared > 1 else "")
    return found, f"auto: the most rows that divide the batch and fit into {share}"


def describe_memory(plan: MemoryPlan, chosen: str, runtime: Runtime) -> dict[str, str]:
    """The memory plan as it is announced."""
    shape = plan.shape
    bound = "at most " if runtime.compile else ""
    return {
        "micro_batch": f"{shape.rows} x {shape.source} = {shape.rows * shape.source} tokens ({chosen})",
        "memory": f"{bound}{plan.total / MB:,.0f} MB of {whole_memory(runtime.device) / MB:,.0f} ({plan.listing()})",
    }


def describe_cost(flops: float, runtime: Runtime, compute: Compute) -> dict[str, str]:
    """FLOPs, predicted time and, where it has a price, cost of a training, as they are announced.

    Args:
        flops: of the whole training, all ranks together.
        runtime: what it runs on.
        compute: of params.yaml, with the price of an hour.
    """
    ranks, (compiled, eager) = runtime.ranks.size, REACHED[runtime.device.type, runtime.precision]
    share = compiled if runtime.compile else eager
    seconds = flops / (runtime.matmul_rate * share * ranks)
    each = f" x {ranks} ranks" if ranks > 1 else ""
    found = {
        "training_flops": f"{flops:.3e}",
        "predicted_time": f"{duration(seconds)} ({share:.0%} of {runtime.matmul_rate / 1e9:,.0f} GFLOP/s{each}, "
        "measured; without compiling and validation)",
    }
    if compute.price_per_hour is not None:
        cost = compute.price_per_hour * ranks * seconds / 3600
        found["predicted_cost"] = f"{cost:,.2f} ({compute.price_per_hour:g} per hour{each})"
    return found


def duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 3.5 min, 7.2 h, 3.1 days."""
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} s" if unit == "s" else f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86_400:.1f} days"


@contextmanager
def explain_out_of_memory(plan: MemoryPlan) -> Iterator[None]:
    """Turn running out of memory in here into an error that names the largest part and what to lower.

    Raises:
        HallmarkError: torch, on a GPU or on the CPU, or Python could not get the memory that it asked for.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise plan.refuse(f"out of memory ({_first_line(error)})") from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise plan.refuse(f"out of memory ({_first_line(error)})") from error


def _first_line(error: BaseException) -> str:
    text = str(error).partition("\n")[0]
    return text[text.find("DefaultCPUAllocator") :] if "DefaultCPUAllocator" in text else text or type(error).__name__
