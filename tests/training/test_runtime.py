"""What the choice of a runtime sets up."""

from dataclasses import replace
from typing import Literal

import pytest
import torch

from pipeline.common.params import Compute
from pipeline.training import runtime
from pipeline.training.distributed import Ranks
from pipeline.training.runtime import REPLAY_PAYS_BELOW_FLOPS, choose_runtime
from tests.training.tiny import tiny_runtime


def test_small_steps_of_one_process_on_a_gpu_are_replayed() -> None:
    on_cpu = tiny_runtime()
    on_gpu = replace(on_cpu, device=torch.device("cuda"))
    assert on_gpu.replays(REPLAY_PAYS_BELOW_FLOPS / 2)
    assert not on_gpu.replays(REPLAY_PAYS_BELOW_FLOPS)
    assert not replace(on_gpu, ranks=Ranks(size=2)).replays(1.0)
    assert not on_cpu.replays(1.0)


@pytest.mark.parametrize(
    ("shapes", "flops", "expected"),
    [(1, 0.9e13, "eager"), (1, 1e13, "compiled"), (29, 1.9e13, "eager"), (29, 2e13, "compiled")],
)
def test_texts_of_any_length_are_compiled_once_and_from_a_size_of_their_own(
    shapes: int, flops: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "find_compiler", lambda: "g++")
    found = choose_runtime(Compute(device="cpu"), flops, shapes=shapes)
    assert found.reasons["compile"].startswith(expected)
    assert found.any_length == (shapes > 1)


@pytest.mark.parametrize(("precision", "told"), [("bfloat16", True), ("float32", False)])
def test_threads_are_told_where_the_bits_may_follow_them(precision: Literal["bfloat16", "float32"], told: bool) -> None:
    found = choose_runtime(Compute(device="cpu", precision=precision), 0)
    assert found.bound_to == ({"threads": str(torch.get_num_threads())} if told else {})
    assert ("threads" in found.reasons) == told
    assert replace(found, device=torch.device("cuda")).bound_to == {}


def test_compiled_code_rounds_every_product() -> None:
    """A C++ compiler that may round a product and a sum once does so in some loops, and Inductor writes other loops for
    one thread than for two: the default network had other gradients then.
    """
    from torch._inductor import config

    tiny_runtime(compile="always")
    assert config.cpp.enable_floating_point_contract_flag == "off"
