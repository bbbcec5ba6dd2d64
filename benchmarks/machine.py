"""What a figure was measured on."""

import os
import platform
from typing import Any


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
