"""Servers that live as long as a benchmark needs them."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.checkout import Checkout
from pipeline.common.errors import HallmarkError
from pipeline.common.ports import free_port

START_SECONDS = 120


@contextmanager
def prefect_server(checkout: Checkout) -> Iterator[str]:
    """Run a Prefect server on a free port of loopback and yield its API address; its processes end with the block."""
    port = free_port()
    address = f"http://127.0.0.1:{port}/api"
    command = ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(
        command, cwd=checkout.root, env=dict(checkout.environment), stdout=sys.stderr, start_new_session=True
    )
    try:
        _wait_until_healthy(server, address)
        yield address
    finally:
        _end_group(server)


def _wait_until_healthy(server: subprocess.Popen[bytes], address: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise HallmarkError("the Prefect server did not start; its output is above", where=address, fix="hallmark doctor")


def _end_group(server: subprocess.Popen[bytes]) -> None:
    for wanted in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, wanted)
            server.wait(20)
            return
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            server.wait()
            return
