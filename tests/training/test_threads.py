"""Eager gradients of every preset, in float32, on one thread and on more."""

import pytest
import torch
from torch import Tensor

from pipeline.common.params import Model, Pretrain
from pipeline.model.config import derive_config
from pipeline.model.presets import PRESETS
from pipeline.model.transformer import Transformer
from pipeline.training.loop import gradient_norm
from pipeline.training.objectives import PretrainingLoss, choose_objective, make_objective
from tests.training.tiny import tiny_runtime, tiny_shard, tiny_tokenizer

SHAPE = {"depth": 2, "hidden_size": 96, "num_heads": 3, "context_length": 50, "dropout": 0.1}
ROWS = 9  # of 50 tokens: no size is a multiple of what a processor handles at once


def gradients(preset: str, threads: int) -> dict[str, Tensor]:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    config, _ = derive_config(Model.model_validate(SHAPE | {"preset": preset}), tokenizer.vocab_size)
    model = Transformer(config)
    objective = make_objective(choose_objective(None, config.family), tokenizer, config.context_length, Pretrain())
    [batch], _ = next(objective.batches(tiny_shard(), ROWS * objective.row_length, None, 1))
    loss, _ = PretrainingLoss(tiny_runtime(precision="float32"))(model, batch)
    loss.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return found | {"loss": loss.detach(), "norm": gradient_norm(list(model.parameters()))}


@pytest.mark.usefixtures("own_threads")
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_the_bits_do_not_follow_the_number_of_threads(preset: str) -> None:
    one, two, three = (gradients(preset, threads) for threads in (1, 2, 3))
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
    assert [name for name in one if not torch.equal(one[name], three[name])] == []
