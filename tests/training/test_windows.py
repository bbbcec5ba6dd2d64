"""The data path: every token once an epoch, the same rows whatever the micro-batches, and resumable anywhere."""

import json

import numpy as np
import pytest
import torch

from pipeline.common.errors import HallmarkError
from pipeline.tokenization.shards import TokenShard
from pipeline.training.objectives import OBJECTIVES
from pipeline.training.windows import Windows, document_windows, fixed_windows
from tests.training.tiny import CONTEXT, tiny_objective, tiny_shard

EVERY_OBJECTIVE = [name for names in OBJECTIVES.values() for name in names]


def batches(objective: str, micro_rows: int = 6, seed: int = 5) -> Windows:
    return tiny_objective(objective).batches(tiny_shard(), 6 * CONTEXT, micro_rows * CONTEXT, seed)


def test_windows_go_through_every_token_once_an_epoch_from_another_offset() -> None:
    plan = fixed_windows(tiny_shard(), 25, 24)
    offsets = set()
    for seed in range(8):
        windows = plan(np.random.default_rng(seed))
        assert np.all(np.diff(windows[:, 0]) == 24)
        assert np.all(windows[:, 1] - windows[:, 0] == 25)
        assert windows[0, 0] < 24
        assert len(tiny_shard().tokens) - windows[-1, 1] < 24
        offsets.add(int(windows[0, 0]))
    assert len(offsets) > 1
    assert plan(None)[0, 0] == 0


def test_document_windows_hold_every_token_of_long_documents_and_cross_no_border() -> None:
    shard = tiny_shard()
    windows = document_windows(shard, 21, 8)(None)
    held = np.concatenate([np.arange(first, last) for first, last in windows])
    assert len(held) == len(set(held.tolist())) == len(shard.tokens) - shard.documents
    assert not set(held.tolist()) & set(shard.offsets[:-1].tolist())
    assert (windows[:, 1] - windows[:, 0]).max() <= 21


@pytest.mark.parametrize("objective", EVERY_OBJECTIVE)
def test_any_state_goes_on_with_the_same_rows(objective: str) -> None:
    source = batches(objective)
    stream = [next(source) for _ in range(16)]
    assert stream[-1][1]["epoch"] >= 2
    for place in (2, 7, 13):
        resumed = batches(objective)
        resumed.load_state(json.loads(json.dumps(stream[place][1])))
        following, state = next(resumed)
        assert state == stream[place + 1][1]
        for name, value in following[0].items():
            assert torch.equal(value, stream[place + 1][0][0][name]), name


@pytest.mark.parametrize("objective", EVERY_OBJECTIVE)
def test_rows_do_not_depend_on_micro_batches_but_on_epoch_and_seed(objective: str) -> None:
    whole, parts, other = (
        next(batches(objective))[0],
        next(batches(objective, 2))[0],
        next(batches(objective, seed=6))[0],
    )
    assert len(parts) > len(whole) == 1
    for name, value in whole[0].items():
        assert torch.equal(value, torch.cat([part[name] for part in parts])), name
    assert not torch.equal(whole[0]["input_ids"], other[0]["input_ids"])


def test_too_little_text_is_refused() -> None:
    with pytest.raises(HallmarkError, match="tokens are too few for a window of 3001"):
        fixed_windows(tiny_shard(), 3001, 3000)
    lone = TokenShard(tiny_shard().tokens[:50], np.array([0, 50]), "t", 49)
    with pytest.raises(HallmarkError, match="1 documents have 8 tokens or more, and pairs need two"):
        document_windows(lone, 20, 8)
