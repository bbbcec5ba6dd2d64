"""What is changed in the loops that Inductor writes for a CPU: their bits follow neither the number of threads nor the
length that came first, and they read memory before they need it.

For the loops Inductor has no settings, hence changes of its code; torch is pinned to the minor version.
"""

import sys
from functools import cache
from typing import Any

import torch

CHANGES = "hallmark 2"  # in the keys of what Inductor keeps on disk: count on whenever other loops are written

BYTES_AHEAD, ROWS_AHEAD = 2048, 8


@cache
def change_inductor() -> None:
    """Make all changes, once; what was compiled without them is not used any more."""
    from torch.compiler import config

    config.cache_key_tag += CHANGES
    sum_in_one_order()
    tell_lengths_apart()
    if sys.platform != "win32":  # whose compiler has no __builtin_prefetch
        read_ahead()


def sum_in_one_order() -> None:
    """Keep Inductor from splitting a sum over threads: its bits would follow their number.

    Where the loop over what is summed is much longer than the loops around it, as in the gradient of a norm's weight,
    Inductor splits that loop.
    """
    from torch._inductor.codegen import cpp

    split: Any = cpp.LoopNest.max_parallel_depth

    def around_sums(nest: Any) -> Any:
        found = split(nest)
        if nest.loops is None or not nest.loops[found.start_depth].is_reduction:
            return found
        outer = 0
        while not nest.loops[outer].is_reduction:
            outer += 1
        return cpp.ParallelDepth(parallel_depth=outer, start_depth=0)

    cpp.LoopNest.max_parallel_depth = around_sums  # type: ignore[assignment]


def read_ahead() -> None:
    """Let a loop ask early for what it is going to read: `BYTES_AHEAD` later where it reads value after value,
    `ROWS_AHEAD` later where each turn reads another row.

    Many loops compute so long on what they read that a processor does not see the next reads early enough: of 4 million
    exponentials in bfloat16 half of the time was waiting.
    """
    from torch._inductor.codegen import cpp
    from torch._inductor.codegen.cpp_utils import cexpr_index

    load: Any = cpp.CppVecKernel._get_vec_load_line

    def ahead(kernel: Any, var: str, index: Any, dtype: torch.dtype, load_mask: Any = None) -> str:
        line: str = load(kernel, var, index, dtype, load_mask)
        later = place_ahead(kernel, index, dtype) if var.startswith(("in_ptr", "in_out_ptr", "out_ptr")) else None
        return line if later is None else f"(__builtin_prefetch({var} + {cexpr_index(later)}), {line})"

    cpp.CppVecKernel._get_vec_load_line = ahead  # type: ignore[method-assign]


def place_ahead(kernel: Any, index: Any, dtype: torch.dtype) -> Any:
    """The index of what the innermost loop of an Inductor kernel is going to read; None where that gains nothing."""
    turn, turns = kernel.itervars[-1], kernel.ranges[-1]
    stride = kernel._try_get_const_stride(index, turn)
    if stride == 1:
        return index + BYTES_AHEAD // dtype.itemsize
    is_short = turns.is_number and turns < 8 * ROWS_AHEAD
    return index.subs(turn, turn + ROWS_AHEAD) if stride and not is_short else None


def tell_lengths_apart() -> None:
    """Keep code that is compiled for rows of every length from taking equal sizes for one size, and all other numbers
    for variables.

    Else a first batch of as many rows as tokens would be compiled twice: torch would believe that they are always as
    many. What was compiled is the same whichever length came first, bit by bit: a training that goes on elsewhere may
    begin with another. A scale or an epsilon, which never changes, would be read from memory for every value.
    """
    from torch._dynamo import config as numbers
    from torch.fx.experimental import _config as sizes

    sizes.use_duck_shape = False
    numbers.specialize_float = True
