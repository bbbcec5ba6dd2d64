"""What every test of training goes without."""

import pytest


@pytest.fixture(autouse=True)
def no_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's rate of matrix products, for the MFU, takes half a second to measure."""
    monkeypatch.setattr("pipeline.training.runtime.matmul_flops_per_second", lambda runtime: 1e12)
