"""What the choice of a runtime sets up."""

from dataclasses import replace
from typing import Literal

import pytest
import torch

from pipeline.common.params import Compute
from pipeline.model.attention import Attention
from pipeline.model.feed_forward import FeedForward
from pipeline.model.linear import Linear
from pipeline.model.transformer import Transformer
from pipeline.training import runtime
from pipeline.training.distributed import Ranks
from pipeline.training.runtime import REPLAY_PAYS_BELOW_FLOPS, Runtime, choose_runtime
from tests.training.tiny import tiny_config, tiny_runtime


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


@pytest.mark.parametrize(
    ("here", "compiled", "precision", "expected"),
    [
        (True, True, "bfloat16", True),
        (True, False, "bfloat16", False),
        (True, True, "float32", False),
        (False, True, "bfloat16", False),
    ],
)
def test_only_compiled_training_in_bfloat16_goes_by_amx(
    here: bool, compiled: bool, precision: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "has_amx", lambda: here)
    found = Runtime(torch.device("cpu"), getattr(torch, precision), compiled, {})
    model = Transformer(tiny_config("causal"))
    found.compile_blocks(model)
    parts = [module for module in model.modules() if isinstance(module, Attention | FeedForward | Linear)]
    assert len(parts) > 4
    assert found.uses_amx == expected
    assert all(part.by_amx == expected for part in parts if compiled)
