"""What int8 costs a trained model in its task's figures, and what it gains in speed and memory on this CPU."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.common.errors import HallmarkError, allowed
from pipeline.common.layout import FINETUNED, clean_task
from pipeline.common.params import Params
from pipeline.evaluation.kinds import EVALUATIONS
from pipeline.model.quantization import quantize_linears
from pipeline.tasks.kinds import KINDS
from pipeline.tasks.rows import read_rows

FULL = "scratch"  # the evaluation's arm for a second model: here the one in full precision


class Clock:
    """A trained model whose predictions are timed."""

    def __init__(self, model: Any) -> None:
        self.model, self.seconds = model, 0.0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.model, name)
        return self._timed(found) if name.startswith("predict") else found

    def _timed(self, predict: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            begun = time.perf_counter()
            try:
                return predict(*arguments, **named)
            finally:
                self.seconds += time.perf_counter() - begun

        return timed


@dataclass(frozen=True)
class Int8Report:
    """The int8 model beside the one in full precision, on the same test rows.

    Attributes:
        task: its name.
        figure: the leading figure's name.
        int8, full: that figure, as {"value", "low", "high"}.
        difference: int8 less full, paired on the same rows, with its interval.
        int8_rows_per_second, full_rows_per_second: in prediction, one row at a time as served.
        bytes, bytes_saved: of the weights.
    """

    task: str
    figure: str
    int8: dict[str, float]
    full: dict[str, float]
    difference: dict[str, float]
    int8_rows_per_second: float
    full_rows_per_second: float
    bytes: int
    bytes_saved: int

    def lines(self) -> list[str]:
        """The report as it is printed."""
        speed = self.int8_rows_per_second / self.full_rows_per_second
        return [
            f"task {self.task}, test split",
            f"{self.figure:<12}  int8 {_interval(self.int8)}, full precision {_interval(self.full)}",
            f"{'difference':<12}  {_interval(self.difference, '+')}, paired: {self.verdict()}",
            f"{'rows/s':<12}  int8 {self.int8_rows_per_second:,.1f}, full precision {self.full_rows_per_second:,.1f}: "
            f"{speed:.2f} times as fast",
            f"{'weights':<12}  int8 {(self.bytes - self.bytes_saved) / 1e6:,.1f} MB, "
            f"full precision {self.bytes / 1e6:,.1f} MB",
        ]

    def verdict(self) -> str:
        if self.difference["high"] < 0:
            return "int8 is worse"
        return "int8 is better" if self.difference["low"] > 0 else "no difference was shown"


def _interval(figure: dict[str, float], sign: str = "") -> str:
    return f"{figure['value']:{sign}.3f} ({figure['low']:{sign}.3f} to {figure['high']:{sign}.3f})"


def measure_int8(name: str, params: Params) -> Int8Report:
    """Measure a built task's model in int8 beside itself.

    Raises:
        HallmarkError: there is no such task or model.
    """
    if name not in params.tasks:
        raise HallmarkError(f"there is no task {name!r}; {allowed(params.tasks)}", where="params.yaml: tasks")
    if not (FINETUNED / name).exists():
        raise HallmarkError("this model was not built yet", where=str(FINETUNED / name), fix="dvc repro")
    task, table = params.tasks[name], clean_task(name)
    full, int8 = (KINDS[task.kind].load(FINETUNED / name, "cpu") for _ in range(2))
    size = sum(weight.numel() * weight.element_size() for weight in full.model.parameters())
    saved = quantize_linears(int8.model.body)
    kind, timed_int8, timed_full = EVALUATIONS[task.kind], Clock(int8), Clock(full)
    metrics = kind.evaluate(
        read_rows(table),
        str(table),
        timed_int8,
        timed_full,
        task=task,
        settings=params.evaluate,
        seed=params.seed,
    ).metrics
    key, figure = kind.lead(metrics)
    other = metrics["baselines"][FULL]
    return Int8Report(
        task=name,
        figure=figure,
        int8=metrics[key],
        full=other[key],
        difference=other[f"lead_{key}"],
        int8_rows_per_second=metrics["test_rows"] / timed_int8.seconds,
        full_rows_per_second=metrics["test_rows"] / timed_full.seconds,
        bytes=size,
        bytes_saved=saved,
    )
