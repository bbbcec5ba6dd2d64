"""What a figure was measured on, and the clock."""

import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.common.processes import peak_memory_bytes


def describe_machine() -> dict[str, Any]:
    """Processor, cores that this process may use, memory, Python, and the load before the measurement."""
    import psutil

    return {
        "processor": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def seconds_of(work: Callable[[], object]) -> float:
    """The wall-clock seconds of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def wait_for_device() -> None:
    """Wait until a GPU that this process uses has done all that it was given."""
    if _uses_gpu():
        sys.modules["torch"].cuda.synchronize()


def peak_bytes() -> int:
    """The most memory that this process has had: of the GPU, if it uses one."""
    return int(sys.modules["torch"].cuda.max_memory_allocated()) if _uses_gpu() else peak_memory_bytes()


def _uses_gpu() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_initialized()


@contextmanager
def cold_compilations() -> Iterator[None]:
    """Let torch compile everything anew in here: its cache is empty, and thrown away."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(name)
    with tempfile.TemporaryDirectory(prefix="hallmark-inductor-", ignore_cleanup_errors=True) as cold:
        os.environ[name] = cold
        try:
            yield
        finally:
            os.environ.pop(name)
            if before is not None:
                os.environ[name] = before
