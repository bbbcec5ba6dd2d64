"""What all tests of the operations by AMX need."""

import os
import sys

import pytest
import torch

from pipeline.common.compiler import find_compiler, prepare_inductor
from pipeline.model.amx.library import has_amx

HAS_AMX = sys.platform == "linux" and torch.cpu._is_amx_tile_supported() and "ONEDNN_MAX_CPU_ISA" not in os.environ


@pytest.fixture(scope="session")
def amx() -> None:
    """The operations can be asked; else the test is skipped."""
    if not HAS_AMX or find_compiler() is None:
        pytest.skip("no AMX instructions, or forbidden, or no C++ compiler here")
    prepare_inductor()
    assert has_amx()
