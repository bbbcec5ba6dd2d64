"""An arm of a benchmark run here, without a process of its own."""

from multiprocessing import Pipe
from typing import Any

from benchmarks.turns import Clock, Finished, Work


def rounds_of(work: Work, settings: dict[str, Any], rounds: int = 2) -> list[dict[str, Any]]:
    """What an arm tells of its start and of each round."""
    here, there = Pipe()
    for _ in range(rounds):
        here.send(True)
    here.send(False)
    try:
        work(Clock(there), settings)
    except Finished:
        return [here.recv() for _ in range(1 + rounds)]
    raise AssertionError("the arm ended before its clock did")
