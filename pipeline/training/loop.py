"""The one training loop: pretraining and fine-tuning, exact after any kill.

train(N) gives the same bits as train(k), a kill, and a resume for the other N - k steps: weights, optimizer,
random state, data position and the best weights so far are in one checkpoint.
"""

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.common.errors import HallmarkError
from pipeline.common.processes import Interrupted
from pipeline.model.weights import load_weights, named_weights
from pipeline.training.checkpoints import Checkpoints, Progress
from pipeline.training.metrics_file import MetricsFile
from pipeline.training.optimizers import Optimizers
from pipeline.training.progress import Meter
from pipeline.training.random_state import random_state
from pipeline.training.replay import Batch, Replay
from pipeline.training.runtime import Runtime
from pipeline.training.sharding import is_sharded, own_gradients, sum_over_parts

METRICS_FILE = "metrics.jsonl"

Loss = Callable[[nn.Module, Batch], tuple[Tensor, Tensor]]
Report = Callable[[int, Mapping[str, float]], None]


class Batches(Protocol):
    """An endless source of global batches; every item comes with the state after it."""

    def __next__(self) -> tuple[list[Batch], dict[str, Any]]:
        """The micro-batches of one optimizer step, and the JSON-able state to go on from after it."""
        ...

    def load_state(self, state: dict[str, Any]) -> None: ...

    def origin(self, state: dict[str, Any] | None) -> str:
        """Where the rows of the step that began at `state` (None: of the first) come from, for people."""
        ...


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
    keep_every: int | None = None  # keep the checkpoints of these multiples of steps for ever
    max_skipped_steps: int = 0  # leave out so many steps whose loss or gradient is not finite, then stop
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
        HallmarkError: too many steps had a loss or gradient that is not finite, and the last good checkpoint stays;
            or a checkpoint could not be written.
        Interrupted: after SIGTERM or SIGINT, with a checkpoint of the last whole step.
    """
    loop = _Loop(model, loss, batches, optimizers, plan, runtime, scratch, validate, report)
    loop.run()
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
        self.parameters = list(model.parameters())  # once: to walk the modules anew took a tenth of a small step
        self.replay = Replay(self._add_gradients, self.parameters, self._replays)
        self.sharded = is_sharded(model)
        self.best: dict[str, Tensor] | None = None
        self.progress = Progress(finished=plan.steps == 0)
        self.checkpoints = Checkpoints(
            scratch, plan.keep_every, writes=runtime.ranks.is_first, bound_to=runtime.bound_to
        )
        self._resume()
        self.upcoming: tuple[list[Batch], dict[str, Any]] | None = None  # fetched while a GPU was at work
        self.saved_step, self.random = self.progress.step, random_state()
        self.stop = _SignalFlag()
        self.curve = MetricsFile(scratch / METRICS_FILE)
        if runtime.ranks.is_first:
            self.curve.rewind(self.progress.step)
        peak = runtime.matmul_rate * runtime.ranks.size
        self.meter = Meter(plan.name, plan.steps, self.progress.step, plan.flops_per_token, peak)

    def _resume(self) -> None:
        found = self.checkpoints.load(self.model, self.optimizers)
        self.runtime.ranks.require_same("the step to go on from", str(found[0].step if found else 0))
        if found is None:
            return
        self.progress, self.best = found
        if self.progress.batches is not None:
            self.batches.load_state(self.progress.batches)
        print(f"{self.plan.name}  resumed after step {self.progress.step} from {self.scratch}", flush=True)

    def run(self) -> None:
        try:
            with self.stop:
                with self.checkpoints:
                    self._run()
                self.stop.raise_if_asked()  # while the last checkpoint was written
        finally:
            self.meter.stop()
        if self.best is not None:
            load_weights(self.model, self.best, frozen=False)

    def _run(self) -> None:
        self.model.train()
        try:
            while not self.progress.finished:
                if not self._must_validate():  # else a stop came between a step and its validation
                    self._step()
                self._validate_and_save()
                self._stop_if_asked()
        except Interrupted:
            self._save()
            raise

    def _stop_if_asked(self) -> None:
        """Raise `Interrupted` on all ranks after the same step if a signal reached one of them."""
        if self.runtime.ranks.any(self.stop.signal_number is not None):
            raise Interrupted(self.stop.signal_number or signal.SIGTERM)

    def _step(self) -> None:
        self.checkpoints.check()
        self.runtime.ranks.seed_step(self.progress.step)
        micro_batches, state = self.upcoming or self._fetch()
        step, self.upcoming = self.progress.step + 1, None
        with self._interruptible():
            loss, valid = self._backward(micro_batches)
            norm = gradient_norm(self.parameters) / valid
            if step < self.plan.steps:
                self.upcoming = self._fetch()
            loss_value = float(loss)  # a GPU has done all of the above now
        if math.isfinite(loss_value) and math.isfinite(norm):
            self._update(step, loss_value, norm, valid)
        else:
            self._skip(step, loss_value, float(norm))
        self.progress.step, self.progress.batches, self.random = step, state, random_state()
        tokens = sum(batch["input_ids"].numel() for batch in micro_batches) * self.runtime.ranks.size
        self.meter.advance(step, tokens, loss_value)

    def _fetch(self) -> tuple[list[Batch], dict[str, Any]]:
        """The next global batch, on its way to the device, and the state after it."""
        micro_batches, state = next(self.batches)
        return [self.runtime.send(batch) for batch in micro_batches], state

    def _update(self, step: int, loss: float, norm: Tensor, valid: Tensor) -> None:
        """Update the weights by the mean gradient, whose norm this is, clipped; the gradients are sums until here."""
        share = (self.plan.gradient_clip / (norm + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(own_gradients(self.parameters), share / valid)
        rate = self.optimizers.schedule(self.progress.step)
        self.optimizers.step(self.progress.step)
        if step % self.plan.log_every == 0 or step == self.plan.steps:
            self._log(step, {"loss": loss, "gradient_norm": float(norm), "learning_rate_factor": rate})

    def _skip(self, step: int, loss: float, norm: float) -> None:
        """Leave weights and optimizers as they are. Raises HallmarkError over the budget."""
        what = f"step {step} gave loss {loss} and gradient norm {norm}"
        rows = self.batches.origin(self.progress.batches)
        if self.progress.skipped_steps == self.plan.max_skipped_steps:
            kept = self.checkpoints.newest()
            have = f"the last good checkpoint is {kept}" if kept else "there is no earlier checkpoint"
            skipped = f" after {self.progress.skipped_steps} skipped steps" if self.progress.skipped_steps else ""
            raise HallmarkError(
                f"{what}{skipped}; its batch holds {rows}; {have}",
                where=self.plan.name,
                fix="look at these rows, or lower the learning rate or gradient_clip in params.yaml, then dvc repro",
            )
        self.progress.skipped_steps += 1
        self.model.zero_grad(set_to_none=True)
        self._log(step, {"skipped_steps": self.progress.skipped_steps})
        count = f"{self.progress.skipped_steps} of {self.plan.max_skipped_steps}"
        if self.runtime.ranks.is_first:
            print(f"{self.plan.name}  {what}: skipped ({count}); its batch holds {rows}", flush=True)

    def _interruptible(self) -> AbstractContextManager[None]:
        """Where a signal may break off at once, since nothing is changed: a first step may compile for long.

        Not on several ranks: one must not leave while the others wait for it.
        """
        return self.stop.at_once() if self.runtime.ranks.size == 1 else nullcontext()

    def _backward(self, micro_batches: list[Batch]) -> tuple[Tensor, Tensor]:
        """Sum the gradients over all micro-batches and ranks; the mean loss of the global batch, and the number of its
        valid items.
        """
        self.replay.begin_step()
        sums, counts = zip(*map(self.replay, micro_batches), strict=True)
        total, valid = torch.stack(sums).sum(), torch.stack(counts).sum()
        gradients = [] if self.sharded else own_gradients(self.parameters)  # sharded: backward added them up
        self.runtime.ranks.sum_([*gradients, total, valid])
        return total / valid, valid

    def _replays(self, batch: Batch) -> bool:
        return self.runtime.replays(batch["input_ids"].numel() * self.plan.flops_per_token)

    def _add_gradients(self, batch: Batch) -> tuple[Tensor, Tensor]:
        with self.runtime.autocast():
            loss_sum, count = self.loss(self.model, batch)
        loss_sum.backward()
        return loss_sum.detach(), count.detach()

    def _log(self, step: int, values: Mapping[str, float]) -> None:
        if not self.runtime.ranks.is_first:
            return
        self.curve.append(step, values)
        self.report(step, {**values, "tokens_per_second": self.meter.tokens_per_second(), "mfu": self.meter.mfu()})

    def _must_validate(self) -> bool:
        step = self.progress.step
        return step > self.progress.validated and (step % self.plan.validate_every == 0 or step == self.plan.steps)

    def _validate_and_save(self) -> None:
        started = time.perf_counter()
        step = self.progress.step
        if self._must_validate():
            self._validate(step)
        patience = self.plan.patience
        out_of_patience = patience is not None and self.progress.validations_without_better >= patience
        self.progress.finished = step == self.plan.steps or out_of_patience
        wanted = [every for every in (self.plan.checkpoint_every, self.plan.keep_every) if every is not None]
        if any(step % every == 0 for every in wanted) or self.progress.finished:
            self._save()
        self.meter.pause(time.perf_counter() - started)

    def _validate(self, step: int) -> None:
        self.model.eval()
        with self._interruptible(), torch.no_grad(), self.runtime.autocast(), self.runtime.eager():
            values = dict(self.validate())
        self.model.train()
        self.random = random_state()
        self._log(step, {f"validation_{name}": value for name, value in values.items()})
        self.progress.validated = step
        if self.plan.best_metric is None:
            return
        value = values[self.plan.best_metric]
        if self.progress.best_value is None or value > self.progress.best_value:
            self.progress.best_value, self.progress.best_step = value, step
            self.progress.validations_without_better = 0
            self.best = {name: weight.clone() for name, weight in named_weights(self.model, frozen=False).items()}
        else:
            self.progress.validations_without_better += 1

    def _save(self) -> None:
        """Checkpoint the last whole step, unless that is done; the first rank writes it for all."""
        if self.progress.step > self.saved_step:
            self.checkpoints.save(self.model, self.optimizers, self.progress, self.best, self.random)
            self.saved_step = self.progress.step

    def result(self) -> TrainResult:
        return TrainResult(
            steps=self.progress.step,
            best_step=self.progress.best_step,
            best_value=self.progress.best_value,
            tokens_per_second=self.meter.tokens_per_second(),
            mfu=self.meter.mfu(),
            metrics_path=self.curve.path,
        )


def gradient_norm(parameters: Sequence[Tensor]) -> Tensor:
    """The norm of all gradients together, the same on any number of threads; a GPU has one order of adding anyhow."""
    gradients = own_gradients(parameters)
    if gradients[0].is_cuda:
        norm = nn.utils.get_total_norm(gradients)
    else:
        norm = steady_norm(torch.stack([steady_norm(gradient) for gradient in gradients]))
    return sum_over_parts(parameters, norm.square()).sqrt()


def steady_sum(x: Tensor) -> Tensor:
    """The sum of all values in one order."""
    return _in_one_order(torch.sum, x)


def steady_norm(x: Tensor) -> Tensor:
    """The Euclidean norm of all values, added up in one order."""
    return _in_one_order(torch.linalg.vector_norm, x)


def _in_one_order(reduce: Callable[..., Tensor], x: Tensor, chunk: int = 16_384) -> Tensor:
    """Chunk by chunk: torch splits a reduction to one number over its threads from 32,768 values on."""
    x = x.flatten()
    while x.numel() > chunk:
        whole = x.numel() // chunk * chunk
        x = torch.cat((reduce(x[:whole].view(-1, chunk), dim=1), reduce(x[whole:])[None]))
    return reduce(x)


class _SignalFlag:
    """While active, SIGTERM and SIGINT are remembered, so that the training stops where its state is whole."""

    signal_number: int | None = None
    raises = False

    def __enter__(self) -> "_SignalFlag":
        self._previous = {number: signal.signal(number, self._remember) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def _remember(self, signal_number: int, _frame: FrameType | None) -> None:
        self.signal_number = signal_number
        if self.raises:
            self.raises = False  # a second signal must not break the saving
            raise Interrupted(signal_number)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """In here a signal raises `Interrupted` at once."""
        self.raises = True
        try:
            self.raise_if_asked()
            yield
        finally:
            self.raises = False

    def raise_if_asked(self) -> None:
        if self.signal_number is not None:
            self.raises = False
            raise Interrupted(self.signal_number)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
