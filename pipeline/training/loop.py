"""The one training loop: pretraining and fine-tuning, exact after any kill.

train(N) gives the same bits as train(k), a kill, and a resume for the other N - k steps: weights, optimizer,
random state, data position and the best weights so far are in one atomically replaced file.
"""

import math
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.common.errors import HallmarkError
from pipeline.common.processes import Interrupted
from pipeline.model.weights import load_weights, named_weights
from pipeline.training.checkpoints import FILE, Progress, load_checkpoint, save_checkpoint
from pipeline.training.metrics_file import MetricsFile
from pipeline.training.optimizers import Optimizers
from pipeline.training.progress import Meter
from pipeline.training.runtime import Runtime, matmul_flops_per_second

METRICS_FILE = "metrics.jsonl"

Batch = dict[str, Tensor]
Loss = Callable[[nn.Module, Batch], tuple[Tensor, Tensor]]
Report = Callable[[int, Mapping[str, float]], None]


class Batches(Protocol):
    """An endless source of global batches; every item comes with the state after it."""

    def __next__(self) -> tuple[list[Batch], dict[str, Any]]:
        """The micro-batches of one optimizer step, and the JSON-able state to go on from after it."""
        ...

    def load_state(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class TrainPlan:
    """How long and how carefully. All counts are optimizer steps."""

    name: str
    steps: int
    gradient_clip: float
    validate_every: int
    checkpoint_every: int
    flops_per_token: float
    best_metric: str | None = None  # keep the weights with the highest value of this validation metric
    patience: int | None = None  # stop after this many validations without a better one
    log_points: int = 1000

    @property
    def log_every(self) -> int:
        return math.ceil(self.steps / self.log_points)


@dataclass(frozen=True)
class TrainResult:
    """What a finished training left in the model, which holds the best weights if the plan asked for them."""

    steps: int
    best_step: int | None
    best_value: float | None
    tokens_per_second: float
    mfu: float
    metrics_path: Path


def train(
    model: nn.Module,
    loss: Loss,
    batches: Batches,
    optimizers: Optimizers,
    plan: TrainPlan,
    runtime: Runtime,
    *,
    scratch: Path,
    validate: Callable[[], Mapping[str, float]],
    report: Report,
) -> TrainResult:
    """Train `model` in place, resuming from `scratch` if a checkpoint is there.

    Args:
        model: on `runtime.device`.
        loss: (model, batch) to the summed loss and the count it is over (valid tokens or labels), both scalars.
        batches: global batches as lists of micro-batches, on the CPU.
        optimizers: what updates the weights, and the schedule.
        plan: lengths and limits.
        runtime: device, precision and whether to compile.
        scratch: folder of the checkpoint and the curve; belongs to this training alone.
        validate: measures the model; called in eval mode without gradients.
        report: is told every logged point, with the speed added to what the curve keeps.

    Raises:
        HallmarkError: the loss or the gradient is not finite; the last good checkpoint stays.
        Interrupted: after SIGTERM or SIGINT, with a checkpoint of the last whole step.
    """
    loop = _Loop(model, loss, batches, optimizers, plan, runtime, scratch, validate, report)
    with _SignalFlag() as stop:
        loop.run(stop)
    return loop.result()


class _Loop:
    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        batches: Batches,
        optimizers: Optimizers,
        plan: TrainPlan,
        runtime: Runtime,
        scratch: Path,
        validate: Callable[[], Mapping[str, float]],
        report: Report,
    ) -> None:
        self.model, self.batches, self.optimizers = model, batches, optimizers
        self.plan, self.runtime, self.scratch = plan, runtime, scratch
        self.validate, self.report = validate, report
        self.loss = loss
        runtime.compile_blocks(model)
        self.best: dict[str, Tensor] | None = None
        self.progress = Progress(finished=plan.steps == 0)
        self._resume()
        self.curve = MetricsFile(scratch / METRICS_FILE)
        self.curve.rewind(self.progress.step)
        peak = matmul_flops_per_second(runtime)
        self.meter = Meter(plan.name, plan.steps, self.progress.step, plan.flops_per_token, peak)

    def _resume(self) -> None:
        found = load_checkpoint(self.scratch, self.model, self.optimizers)
        if found is None:
            return
        self.progress, self.best = found
        if self.progress.batches is not None:
            self.batches.load_state(self.progress.batches)
        print(f"{self.plan.name}  resumed after step {self.progress.step} from {self.scratch / FILE}", flush=True)

    def run(self, stop: "_SignalFlag") -> None:
        try:
            self.model.train()
            while not self.progress.finished:
                self._step()
                if stop.signal_number is not None:
                    self._save()
                    raise Interrupted(stop.signal_number)
        finally:
            self.meter.stop()
        if self.best is not None:
            load_weights(self.model, self.best)

    def _step(self) -> None:
        micro_batches, state = next(self.batches)
        loss_value, tokens = self._backward(micro_batches)
        norm = gradient_norm(self.model)
        nn.utils.clip_grads_with_norm_(self.model.parameters(), self.plan.gradient_clip, norm)
        step = self.progress.step + 1
        self._refuse_non_finite(step, loss_value, float(norm))
        rate = self.optimizers.schedule(self.progress.step)
        self.optimizers.step(self.progress.step)
        self.progress.step, self.progress.batches = step, state
        self.meter.advance(step, tokens, loss_value)
        if step % self.plan.log_every == 0 or step == self.plan.steps:
            self._log(step, {"loss": loss_value, "gradient_norm": float(norm), "learning_rate_factor": rate})
        started = time.perf_counter()
        self._validate_and_save(step)
        self.meter.pause(time.perf_counter() - started)

    def _backward(self, micro_batches: list[Batch]) -> tuple[float, int]:
        """Sum the loss over all micro-batches and divide by all valid items of the global batch."""
        moved = [{name: value.to(self.runtime.device) for name, value in batch.items()} for batch in micro_batches]
        sums: list[Tensor] = []
        counts: list[Tensor] = []
        for batch in moved:
            with self.runtime.autocast():
                loss_sum, count = self.loss(self.model, batch)
            loss_sum.backward()
            sums.append(loss_sum.detach())
            counts.append(count.detach())
        valid = torch.stack(counts).sum()
        for parameter in self.model.parameters():
            if parameter.grad is not None:
                parameter.grad.div_(valid)
        tokens = sum(batch["input_ids"].numel() for batch in moved)
        return float(torch.stack(sums).sum() / valid), tokens

    def _refuse_non_finite(self, step: int, loss: float, norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        kept = self.scratch / FILE
        have = f"the last good checkpoint is {kept}" if kept.exists() else "there is no earlier checkpoint"
        raise HallmarkError(
            f"step {step} gave loss {loss} and gradient norm {norm}; {have}",
            where=self.plan.name,
            fix="lower the learning rate or gradient_clip in params.yaml, then dvc repro",
        )

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        self.curve.append(step, values)
        self.report(step, {**values, "tokens_per_second": self.meter.tokens_per_second(), "mfu": self.meter.mfu()})

    def _validate_and_save(self, step: int) -> None:
        last = step == self.plan.steps
        if step % self.plan.validate_every == 0 or last:
            self._validate(step)
        out_of_patience = (
            self.plan.patience is not None and self.progress.validations_without_better >= self.plan.patience
        )
        self.progress.finished = last or out_of_patience
        if step % self.plan.checkpoint_every == 0 or self.progress.finished:
            self._save()

    def _validate(self, step: int) -> None:
        self.model.eval()
        with torch.no_grad(), self.runtime.autocast(), self.runtime.eager():
            values = dict(self.validate())
        self.model.train()
        self._log(step, {f"validation_{name}": value for name, value in values.items()})
        if self.plan.best_metric is None:
            return
        value = values[self.plan.best_metric]
        if self.progress.best_value is None or value > self.progress.best_value:
            self.progress.best_value, self.progress.best_step = value, step
            self.progress.validations_without_better = 0
            self.best = {name: weight.clone() for name, weight in named_weights(self.model).items()}
        else:
            self.progress.validations_without_better += 1

    def _save(self) -> None:
        save_checkpoint(self.scratch, self.model, self.optimizers, self.progress, self.best)

    def result(self) -> TrainResult:
        return TrainResult(
            steps=self.progress.step,
            best_step=self.progress.best_step,
            best_value=self.progress.best_value,
            tokens_per_second=self.meter.tokens_per_second(),
            mfu=self.meter.mfu(),
            metrics_path=self.curve.path,
        )


def gradient_norm(model: nn.Module) -> Tensor:
    """The norm of all gradients together, the same on any number of threads."""
    squares = [steady_sum(parameter.grad.square()) for parameter in model.parameters() if parameter.grad is not None]
    return torch.stack(squares).sum().sqrt()


def steady_sum(x: Tensor, chunk: int = 16_384) -> Tensor:
    """The sum of all values in one order: torch splits a sum to one number over its threads from 32,768 values on."""
    x = x.flatten()
    while x.numel() > chunk:
        whole = x.numel() // chunk * chunk
        x = torch.cat((x[:whole].view(-1, chunk).sum(dim=1), x[whole:].sum()[None]))
    return x.sum()


class _SignalFlag:
    """While active, SIGTERM and SIGINT are remembered, so that a step is finished and saved before the stop."""

    signal_number: int | None = None

    def __enter__(self) -> "_SignalFlag":
        self._previous = {number: signal.signal(number, self._remember) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _remember(self, signal_number: int, _frame: FrameType | None) -> None:
        self.signal_number = signal_number

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
