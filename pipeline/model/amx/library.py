"""The C++ files of this folder, compiled."""

import ctypes
import sys
from functools import cache
from pathlib import Path
from typing import Any

import torch

SIZE_STEP = 32  # AMX adds up so many products at once


@cache
def library(name: str, **constants: int) -> Any:
    """The functions of a file, compiled behind vectors.h with these constants."""
    from torch._inductor.codecache import CppCodeCache  # what only compiling needs

    parts = (
        Path(__file__).with_name(file).read_text(encoding="utf-8") for file in ("vectors.h", "tiles.h", f"{name}.cpp")
    )
    defined = (f"#define {constant} {value}" for constant, value in constants.items())
    return CppCodeCache.load("\n".join((*defined, *parts)))


def has_amx() -> bool:
    """Whether oneDNN multiplies bfloat16 by AMX here: ONEDNN_MAX_CPU_ISA may forbid it."""
    if sys.platform != "linux" or not torch.cpu._is_amx_tile_supported():
        return False
    asked = library("linear").has_amx
    asked.restype = ctypes.c_bool
    return bool(asked())
