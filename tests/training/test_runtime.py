"""What the choice of a runtime sets up."""

import sys

import pytest
import torch

from tests.training.tiny import tiny_runtime


@pytest.mark.skipif(sys.platform != "linux", reason="reads the page faults that Linux counts")
def test_memory_that_a_step_frees_stays_for_the_next() -> None:
    from resource import RUSAGE_SELF, getrusage

    tiny_runtime()
    torch.ones(16_000_000)  # 64 MB, which are freed at once
    before = getrusage(RUSAGE_SELF).ru_minflt
    torch.ones(16_000_000)
    assert getrusage(RUSAGE_SELF).ru_minflt - before < 1000  # of 15,625 pages
