"""The memory of a training on a CPU."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.training.heap import addresses_count_as_memory, keep_freed_memory

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux counts")


def test_memory_that_a_step_frees_stays_for_the_next() -> None:
    keep_freed_memory()
    page_faults_of_64_megabytes()
    # Some other small allocation may take a piece of what is free, so that it no longer holds 64 MB: hence five tries.
    assert min(page_faults_of_64_megabytes() for _ in range(5)) < 1000  # of 15,625 pages


def page_faults_of_64_megabytes() -> int:
    from resource import RUSAGE_SELF, getrusage

    before = getrusage(RUSAGE_SELF).ru_minflt
    torch.ones(16_000_000)  # freed at once
    return getrusage(RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage/enabled").exists() or addresses_count_as_memory(),
    reason="this system has no huge pages, or no addresses to spare",
)
def test_large_tensors_lie_where_the_system_was_asked_for_huge_pages() -> None:
    """In a process of its own: after other tests the heap has holes, and after one that ran out of memory the C library
    may use another.
    """
    subprocess.run([sys.executable, "-c", IN_HUGE_PAGES], check=True)


IN_HUGE_PAGES = """
import torch
from pipeline.training.heap import keep_freed_memory
from tests.training.test_heap import flags_of_memory_at

keep_freed_memory()
tensor = torch.empty(16_000_000)
assert "hg" in flags_of_memory_at(tensor.data_ptr() + tensor.nbytes // 2)
"""


def flags_of_memory_at(address: int) -> list[str]:
    """The VmFlags that Linux has for it."""
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            start, end = (int(part, 16) for part in first.split("-"))
            inside = start <= address < end
        elif inside and first == "VmFlags:":
            return rest
    raise AssertionError("no memory there")
