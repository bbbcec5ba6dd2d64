"""The C++ files of this folder, compiled, and what torch is told of the operations that ask them."""

import ctypes
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SIZE_STEP = 32  # AMX adds up so many products at once

operations = torch.library.Library("hallmark", "FRAGMENT")


def define(schema: str, compute: Callable[..., Any], shapes: Callable[..., Any]) -> None:
    """The operation `hallmark::NAME` of a schema `NAME(...) -> ...`, on a CPU.

    Args:
        schema: its arguments and results.
        compute: makes the results.
        shapes: makes tensors of the shapes of the results, for the compiler.
    """
    name = schema.partition("(")[0]
    operations.define(schema)
    operations.impl(name, compute, "CPU")
    torch.library.register_fake(f"hallmark::{name}", shapes, lib=operations)


def address(x: Tensor | None) -> int | None:
    """Where its values are."""
    return None if x is None else x.data_ptr()


@cache
def library(name: str, **constants: int) -> Any:
    """The functions of a file, compiled behind vectors.h and tiles.h with these constants."""
    from torch._inductor.codecache import CppCodeCache  # what only compiling needs

    files = ("vectors.h", "tiles.h", f"{name}.cpp")
    parts = (Path(__file__).with_name(file).read_text(encoding="utf-8") for file in files)
    defined = (f"#define {constant} {value}" for constant, value in constants.items())
    return CppCodeCache.load("\n".join((*defined, *parts)))


def has_amx() -> bool:
    """Whether oneDNN multiplies bfloat16 by AMX here: ONEDNN_MAX_CPU_ISA may forbid it."""
    if sys.platform != "linux" or not torch.cpu._is_amx_tile_supported():
        return False
    asked = library("linear").has_amx
    asked.restype = ctypes.c_bool
    return bool(asked())
