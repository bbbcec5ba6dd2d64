"""Our own loop as an arm of a comparison: it trains until the clock ends it."""

import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from benchmarks.turns import Clock
from pipeline.training.loop import Batch, Batches, Loss, TrainPlan, train
from pipeline.training.optimizers import Optimizers
from pipeline.training.runtime import Runtime

ENDLESS = 1_000_000  # steps: the clock ends the training


def train_endlessly(
    clock: Clock,
    model: nn.Module,
    loss: Loss,
    batches: Batches,
    optimizers: Optimizers,
    runtime: Runtime,
    **plan: Any,
) -> None:
    """Run the real loop, without validations and checkpoints; a step begins where the loop asks for the loss.

    Args:
        clock: ticks at the start of each step.
        model, loss, batches, optimizers, runtime: see `pipeline.training.loop.train`.
        plan: `name`, `gradient_clip` and `flops_per_token` of the TrainPlan.
    """

    def ticking_loss(network: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        clock.tick()
        return loss(network, batch)

    whole_plan = TrainPlan(
        steps=ENDLESS,
        validate_every=ENDLESS,
        checkpoint_every=ENDLESS,
        log_points=ENDLESS,  # the curve has every step, as in a run of 1,000
        **plan,
    )
    with tempfile.TemporaryDirectory(prefix="hallmark-benchmark-") as scratch:
        train(
            model,
            ticking_loss,
            batches,
            optimizers,
            whole_plan,
            runtime,
            scratch=Path(scratch),
            validate=dict,
            report=lambda _step, _values: None,
        )
