"""The loops that Inductor writes after our changes."""

import pytest
import torch
from torch import Tensor

from pipeline.common.compiler import find_compiler
from pipeline.training.inductor import BYTES_AHEAD, CHANGES, ROWS_AHEAD, change_inductor
from tests.training.tiny import tiny_runtime

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="there is no C++ compiler here")


def code_of(function, *inputs: Tensor) -> tuple[Tensor, str]:  # type: ignore[no-untyped-def]
    """What it returns when it is compiled, and the loops."""
    from torch._inductor.utils import run_and_get_code

    tiny_runtime(compile="always")
    torch.compiler.reset()
    found, (code, *_) = run_and_get_code(torch.compile(function, dynamic=False), *inputs)
    return found, code


def test_what_is_read_value_after_value_is_asked_for_early() -> None:
    x = torch.linspace(-2, 2, 65_536).reshape(256, 256)
    found, code = code_of(lambda x: x * 0.5, x)
    assert torch.equal(found, x * 0.5)
    assert f"{BYTES_AHEAD // 4}L + x0)" in code[code.index("__builtin_prefetch") :].splitlines()[0]


def test_sums_over_many_rows_ask_for_later_rows() -> None:
    x = torch.ones(256, 512)
    found, code = code_of(lambda x: x.sum(dim=0), x)
    assert torch.equal(found, x.sum(dim=0))
    assert f"{512 * ROWS_AHEAD}L + x0 + 512L*x1)" in code[code.index("__builtin_prefetch") :].splitlines()[0]


def test_sums_over_few_rows_are_as_inductor_writes_them() -> None:
    x = torch.ones(8, 512)
    found, code = code_of(lambda x: x.sum(dim=0), x)
    assert torch.equal(found, x.sum(dim=0))
    assert "loadu" in code
    assert "__builtin_prefetch" not in code


def test_changes_are_made_once_and_part_of_the_keys_of_what_is_kept() -> None:
    from torch._inductor.codegen import cpp
    from torch.compiler import config

    change_inductor()
    before = cpp.CppVecKernel._get_vec_load_line
    change_inductor()
    assert cpp.CppVecKernel._get_vec_load_line is before
    assert config.cache_key_tag.count(CHANGES) == 1
