"""Arms of a comparison, each in a process of its own, of which one works at a time.

A process of its own gives each arm its own peak memory and its own compiled code. They take turns, round by round, so
that a load on the machine meets all of them; ratios are taken within a round.
"""

import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from benchmarks.machine import peak_bytes, wait_for_device
from pipeline.common.errors import HallmarkError
from pipeline.common.processes import Interrupted


class Finished(BaseException):
    """All rounds are over: the arm's training ends here."""


class Clock:
    """An arm's side: `tick` is called at the start of each step, and waits there while others have their turn.

    Attributes:
        steps: of a round.
        facts: figures that are told with each round.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.steps, self.left = 1, 0
        self.facts: dict[str, Any] = {}
        self.started = time.perf_counter()

    def tick(self) -> None:
        """Raises Finished when there is no other round."""
        if self.left == 0:
            wait_for_device()
            seconds = time.perf_counter() - self.started
            told = {"steps": self.steps, "seconds": seconds, "peak_memory_bytes": peak_bytes()}
            self.connection.send(told | self.facts)
            if not self.connection.recv():
                raise Finished
            self.left, self.started = self.steps, time.perf_counter()
        self.left -= 1


Work = Callable[[Clock, dict[str, Any]], None]
Round = dict[str, Any]


class Arm(NamedTuple):
    """What an arm does, until `Finished` is raised; a function of a module, for it is imported in the process."""

    work: Work
    settings: dict[str, Any]


class Rounds(NamedTuple):
    """What one arm told: its start (before the first step), its first round, which compiles, and those that count."""

    start: Round
    first: Round
    measured: list[Round]

    def median(self, figure: Callable[[Round], float]) -> float:
        return statistics.median(map(figure, self.measured))

    def compile_seconds(self) -> float:
        """How much longer the first round took than another."""
        return max(0.0, self.first["seconds"] - self.median(lambda found: found["seconds"]))


def take_turns(arms: Mapping[str, Arm], repeats: int) -> dict[str, Rounds]:
    """Run one round of each arm that does not count, then `repeats` that do, the arms one after another.

    Raises:
        HallmarkError: an arm failed; its traceback is on stderr.
    """
    with ExitStack() as stack:
        running: dict[str, Connection] = {}
        found: dict[str, Rounds] = {}
        for name, arm in arms.items():
            print(f"{name}  starts", file=sys.stderr, flush=True)
            running[name] = stack.enter_context(_process(name, arm))
            start = _receive(name, running[name])
            found[name] = Rounds(start, _turn(name, running[name]), [])
        for number in range(repeats):
            for name, connection in running.items():
                found[name].measured.append(_turn(name, connection))
            print(f"round {number + 1} of {repeats}", file=sys.stderr, flush=True)
        for connection in running.values():
            connection.send(False)
    return found


def median_ratio(ours: Rounds, theirs: Rounds, figure: Callable[[Round], float]) -> float:
    """The median over the rounds of one arm's figure over the other's: both of a round met the same load."""
    pairs = zip(ours.measured, theirs.measured, strict=True)
    return statistics.median(figure(mine) / figure(other) for mine, other in pairs)


def _turn(name: str, connection: Connection) -> Round:
    connection.send(True)
    return _receive(name, connection)


def _receive(name: str, connection: Connection) -> Round:
    try:
        found = connection.recv()
    except EOFError:
        raise HallmarkError(f"the process of {name} ended without a word; is there memory enough?") from None
    if "error" in found:
        raise HallmarkError(f"{name} failed: {found['error']}; its traceback is above")
    return found


@contextmanager
def _process(name: str, arm: Arm) -> Iterator[Connection]:
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there, arm), name=name)
    process.start()
    there.close()
    try:
        yield here
    finally:
        here.close()
        process.join(timeout=20)
        process.terminate()
        process.join()


def _work(connection: Connection, arm: Arm) -> None:
    os.dup2(2, 1)  # what an arm prints is no part of the result
    try:
        arm.work(Clock(connection), arm.settings)
    except (Finished, Interrupted, EOFError):  # EOFError: who started it is gone
        return
    except Exception as error:
        traceback.print_exc()
        connection.send({"error": f"{type(error).__name__}: {error}"})
