"""A loss and its gradients as CUDA graphs: recorded once for each shape of batch, then started with one call.

A small network's step is a thousand kernels of a few microseconds each, and the GPU waits for the processor that starts
them one by one. A recorded graph starts all of them at once. They are the same kernels in the same order, and random
numbers come from the same places of the generator: the bits are those of the step as it is written.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Batch = dict[str, Tensor]
LossAndCount = tuple[Tensor, Tensor]
Backward = Callable[[Batch], LossAndCount]
Shapes = tuple[tuple[str, torch.Size, torch.dtype], ...]

MOST_GRAPHS = 16  # each keeps memory; texts in buckets of lengths have a few shapes


class Replay:
    """Adds a batch's gradients to those of the parameters, by a recorded graph where there is one.

    A shape's first batch compiles and allocates what it needs, the second is watched, the third is recorded, and from
    then on its graph is replayed. What waits for the GPU, to read a number back, cannot be recorded and runs as it is
    written; so do the shapes that come after the first `MOST_GRAPHS`.

    Args:
        backward: (batch) to the summed loss and its count, after adding to the gradients of the parameters.
        parameters: all that may get a gradient.
        records: whether a batch like this is worth a graph.
    """

    def __init__(self, backward: Backward, parameters: Sequence[Tensor], records: Callable[[Batch], bool]) -> None:
        self.backward, self.parameters, self.records = backward, parameters, records
        self.gradients: dict[Tensor, Tensor] = {}  # by parameter: the places that graphs add to
        self.ways: dict[Shapes, Backward] = {}  # what the next batch of these shapes is run by
        self.graphs = 0
        self.pool: Any = None  # the memory that all graphs share, since one runs at a time

    def begin_step(self) -> None:
        """Set the gradients to zero, in their places."""
        if self.gradients:
            torch._foreach_zero_(list(self.gradients.values()))
        for parameter, gradient in self.gradients.items():
            parameter.grad = gradient

    def __call__(self, batch: Batch) -> LossAndCount:
        if not self.records(batch):
            return self.backward(batch)
        shapes = tuple((name, value.shape, value.dtype) for name, value in batch.items())
        way = self.ways.get(shapes)
        return self._begin(shapes, batch) if way is None else way(batch)

    def _begin(self, shapes: Shapes, batch: Batch) -> LossAndCount:
        found = self.backward(batch)
        for parameter in self.parameters:
            if parameter.grad is not None and parameter not in self.gradients:
                self.gradients[parameter] = parameter.grad.add_(0.0)  # -0.0 as 0.0, which is what zeros make of it
        self.ways[shapes] = lambda batch: self._watch(shapes, batch)
        return found

    def _watch(self, shapes: Shapes, batch: Batch) -> LossAndCount:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                found = self.backward(batch)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        waits = any("synchronizing CUDA operation" in str(warning.message) for warning in told)
        if waits or self.graphs == MOST_GRAPHS:
            self.ways[shapes] = self.backward
        else:
            self.graphs += 1
            self.ways[shapes] = lambda batch: self._record(shapes, batch)
        return found

    def _record(self, shapes: Shapes, batch: Batch) -> LossAndCount:
        graph = _Graph(self.backward, batch, self.pool)
        self.pool, self.ways[shapes] = graph.graph.pool(), graph
        return graph(batch)


class _Graph:
    """What `backward` did with a batch, to be done again with others of its shapes."""

    def __init__(self, backward: Backward, batch: Batch, pool: Any) -> None:
        self.graph = torch.cuda.CUDAGraph()
        self.batch = {name: value.clone() for name, value in batch.items()}
        with torch.cuda.graph(self.graph, pool=pool):
            self.found = backward(self.batch)

    def __call__(self, batch: Batch) -> LossAndCount:
        torch._foreach_copy_(list(self.batch.values()), list(batch.values()))
        self.graph.replay()
        loss, count = self.found
        return loss.clone(), count.clone()
