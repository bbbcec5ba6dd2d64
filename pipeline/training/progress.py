"""What a person sees while a network trains: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_LINE_SECONDS = 10.0


class Meter:
    """Speed, MFU and remaining time of one training.

    Args:
        name: the stage, as printed.
        steps: all steps of the training.
        first_step: steps done before this process.
        flops_per_token: see `model.accounting.training_flops_per_token`.
        peak_flops_per_second: the 100 % of the MFU.
    """

    def __init__(
        self, name: str, steps: int, first_step: int, flops_per_token: float, peak_flops_per_second: float
    ) -> None:
        self.name, self.steps = name, steps
        self.flops_per_token, self.peak = flops_per_token, peak_flops_per_second
        self.tokens, self.first_step = 0, first_step
        self.started = self.last_line = time.perf_counter()
        self.paused = 0.0
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeRemainingColumn()
        )
        self.bar_task = self.bar.add_task(name, total=steps, completed=first_step, note="")
        self.on_terminal = sys.stdout.isatty()
        if self.on_terminal:
            self.bar.start()

    def tokens_per_second(self) -> float:
        """Over this process's training steps, compiling included and validation left out."""
        return self.tokens / max(time.perf_counter() - self.started - self.paused, 1e-9)

    def mfu(self) -> float:
        """Model FLOPs utilisation: FLOPs per token x tokens per second / measured matrix-product rate."""
        return self.tokens_per_second() * self.flops_per_token / self.peak

    def pause(self, seconds: float) -> None:
        """Leave `seconds` out of the speed: a validation or a checkpoint took them."""
        self.paused += seconds

    def advance(self, step: int, tokens: int, loss: float) -> None:
        """Count a step; show it on the bar, or as a line every ten seconds and at the end."""
        self.tokens += tokens
        speed = self.tokens_per_second()
        note = f"step {step}/{self.steps}  loss {loss:.3f}  {speed:,.0f} tokens/s  MFU {self.mfu():.0%}"
        if self.on_terminal:
            self.bar.update(self.bar_task, completed=step, note=note)
            return
        now = time.perf_counter()
        if now - self.last_line >= PLAIN_LINE_SECONDS or step == self.steps:
            self.last_line = now
            left = (self.steps - step) * (now - self.started) / max(step - self.first_step, 1)
            print(f"{self.name}  {note}  {left:.0f} s left", flush=True)

    def stop(self) -> None:
        if self.on_terminal:
            self.bar.stop()
