"""Waiting for what another process does."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], seconds: float = 30, pause: float = 0.02) -> None:
    """Return once the condition, asked again after each pause, is true; fail if it is not so in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds} s: {condition}"
        time.sleep(pause)
