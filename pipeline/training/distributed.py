"""Data-parallel training: every rank computes its rows of the global batch, and all take the same step.

Losses and gradients are sums, over ranks as over micro-batches, and are divided once, by all valid targets of the
global batch. So the number of ranks changes the order of additions and nothing else. Every rank holds all weights,
unless they are sharded (`pipeline.training.sharding`).
"""

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.common.errors import HallmarkError
from pipeline.training.launch import LostRankError, rank_here

CPU = torch.device("cpu")
BUCKET_BYTES = 32 << 20  # of gradients sent at once: a message of each small tensor would cost its latency


@dataclass(frozen=True)
class Ranks:
    """The processes that train together. By default there is one, and every method is free.

    Attributes:
        rank: of this process, from 0.
        size: how many there are.
        device: of what is sent: a GPU for NCCL, the CPU for Gloo.
        seed: of the run, from which each rank's random numbers follow.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = CPU
    seed: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this rank writes the files, and speaks, for all."""
        return self.rank == 0

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor with its sum over the ranks, which have the same ones in the same order.

        Every rank gets the same bits.
        """
        if self.size == 1:
            return
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            dist.all_reduce(flat)
            parts = flat.split([tensor.numel() for tensor in bucket])
            for tensor, part in zip(bucket, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true on one rank or more."""
        if self.size == 1:
            return flag
        flags = torch.tensor([flag], dtype=torch.int32, device=self.device)
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags.item())

    def require_same(self, what: str, value: str) -> None:
        """Refuse to train together where ranks differ.

        Raises:
            HallmarkError: `value` is not the same on all ranks.
        """
        if self.size == 1:
            return
        digest = torch.tensor(list(hashlib.sha256(value.encode()).digest()), dtype=torch.int32, device=self.device)
        least, most = digest.clone(), digest.clone()
        dist.all_reduce(least, dist.ReduceOp.MIN)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        if not torch.equal(least, most):
            raise HallmarkError(
                f"{what} is not the same on all {self.size} ranks; rank {self.rank} has {value}",
                fix="put the project on a file system that all nodes share, and start all ranks in it",
            )

    def seed_step(self, step: int) -> None:
        """Give each rank its own random numbers in a step (dropout), the same after a resume on as many ranks."""
        if self.size > 1:
            drawn = np.random.SeedSequence([self.seed, step, self.rank]).generate_state(1, np.uint64)
            torch.manual_seed(int(drawn[0]))


@contextmanager
def join_ranks(device: torch.device, seed: int) -> Iterator[Ranks]:
    """The ranks that this process was started with, by `launch.run_ranks` or `torchrun`; itself alone otherwise.

    Args:
        device: of this rank; it decides how they talk, NCCL or Gloo.
        seed: of the run.

    Raises:
        LostRankError: the others do not come, or one of them or this one's device died while it was at work in here.
    """
    if rank_here() is None:
        yield Ranks()
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with _lost_rank():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        try:
            yield Ranks(dist.get_rank(), dist.get_world_size(), device, seed)
        finally:
            dist.destroy_process_group()


@contextmanager
def _lost_rank() -> Iterator[None]:
    """Gloo and NCCL report a rank that died as a RuntimeError about sockets, from wherever ranks talk."""
    try:
        yield
    except torch.AcceleratorError as error:
        raise LostRankError(str(error).splitlines()[0], is_own=True) from error
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo/transport" not in str(error):
            raise
        # "[.../pair.cc:537] Read error [10.0.0.2]:5855: Connection reset by peer. This is typically caused by ..."
        reason = re.sub(r"^\[[^]]*\] ", "", str(error).splitlines()[0]).partition(". ")[0]
        raise LostRankError(reason) from error


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Runs of tensors of one type, of about BUCKET_BYTES."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (size >= BUCKET_BYTES or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel() * tensor.element_size()
    if bucket:
        yield bucket
