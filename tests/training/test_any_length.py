"""Code that is compiled once for rows of every length."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Literal

import pytest
import torch
from torch._dynamo.utils import counters
from torch._functorch import config as functorch
from torch._inductor import config as inductor

from pipeline.common.params import Compute
from pipeline.model.config import ModelConfig
from pipeline.tasks.classification import TextClassifier
from pipeline.training.runtime import choose_runtime

ROWS = 16
Precision = Literal["float32", "bfloat16"]
SIMPLE = {"positions": "none", "qk_norm": False, "feed_forward": "relu"}


@pytest.fixture
def nothing_compiled(own_threads: None) -> Iterator[None]:
    with inductor.patch(fx_graph_cache=False), functorch.patch(enable_autograd_cache=False):
        yield
    torch._dynamo.reset()


def gradients(precision: Precision, width: int, lengths: Sequence[int], first_length: int) -> list[str]:
    """Hashes of the gradients of a batch of each of `lengths`, by code that saw another batch first."""
    torch._dynamo.reset()
    runtime = choose_runtime(Compute(compile="always", device="cpu", precision=precision), 0, shapes=len(lengths))
    torch.manual_seed(0)
    longest = max(*lengths, first_length)
    model = TextClassifier(
        ModelConfig(50, width, 1, 2, 48, longest, tied_embeddings=False, dropout=0.0, family="encoder", **SIMPLE),
        3,
        "mean",
    )
    runtime.compile_blocks(model)

    def of(length: int) -> str:
        generator = torch.Generator().manual_seed(length)
        ids_BT = torch.randint(50, (ROWS, length), generator=generator)
        lengths_B = torch.randint(1, length + 1, (ROWS,), generator=generator)
        with runtime.autocast():
            logits_BC = model(ids_BT, lengths_B)
        torch.nn.functional.cross_entropy(logits_BC, torch.arange(ROWS) % 3).backward()
        found = hashlib.sha256()
        for parameter in model.parameters():
            assert parameter.grad is not None
            found.update(parameter.grad.numpy().tobytes())
            parameter.grad = None
        return found.hexdigest()

    of(first_length)
    return [of(length) for length in lengths]


@pytest.mark.usefixtures("nothing_compiled")
@pytest.mark.parametrize(
    ("precision", "width", "lengths"), [("float32", 32, (8, 16, 24, 40)), ("bfloat16", 128, (32, 40, 128))]
)
def test_the_bits_follow_from_no_first_length_and_no_number_of_threads(
    precision: Precision, width: int, lengths: Sequence[int]
) -> None:
    """As many tokens as rows, or as the network is wide: all is compiled once."""
    found = []
    for count, first_length in ((2, ROWS), (1, width)):
        torch.set_num_threads(count)
        counters.clear()
        found.append(gradients(precision, width, lengths, first_length))
        assert counters["stats"]["unique_graphs"] == 2  # a block, and the norm behind it
    assert found[0] == found[1]
    assert len(set(found[0])) == len(lengths)
