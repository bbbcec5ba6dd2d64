"""The data path: every token once an epoch, the same rows whatever the micro-batches, and resumable anywhere."""

import json

import numpy as np
import pytest
import torch

from pipeline.common.errors import HallmarkError
from pipeline.tokenization.shards import TokenShard
from pipeline.training.mixture import Mixture
from pipeline.training.objectives import OBJECTIVES, PACKABLE
from pipeline.training.windows import Windows, document_windows, fixed_windows
from tests.training.tiny import CONTEXT, tiny_objective, tiny_shard

EVERY_OBJECTIVE = [name for names in OBJECTIVES.values() for name in names]
EVERY_WAY = [*((name, "stream") for name in EVERY_OBJECTIVE), *((name, "documents") for name in PACKABLE)]


def batches(objective: str, micro_rows: int = 6, seed: int = 5, packing: str = "stream") -> Windows:
    made = tiny_objective(objective, packing=packing)
    return made.batches(tiny_shard(), 6 * CONTEXT, micro_rows * CONTEXT, seed)


def test_windows_go_through_every_token_once_an_epoch_from_another_offset() -> None:
    plan = fixed_windows(Mixture(tiny_shard()), 25, 24)
    offsets = set()
    for seed in range(8):
        windows = plan(0, np.random.default_rng(seed)).pieces_P2
        assert np.all(np.diff(windows[:, 0]) == 24)
        assert np.all(windows[:, 1] - windows[:, 0] == 25)
        assert windows[0, 0] < 24
        assert len(tiny_shard().tokens) - windows[-1, 1] < 24
        offsets.add(int(windows[0, 0]))
    assert len(offsets) > 1
    assert plan(0, None).pieces_P2[0, 0] == 0


def test_document_windows_hold_every_token_of_long_documents_and_cross_no_border() -> None:
    shard = tiny_shard()
    windows = document_windows(Mixture(shard), 21, 8)(0, None).pieces_P2
    held = np.concatenate([np.arange(first, last) for first, last in windows])
    assert len(held) == len(set(held.tolist())) == len(shard.tokens) - shard.documents
    assert not set(held.tolist()) & set(shard.offsets[:-1].tolist())
    assert (windows[:, 1] - windows[:, 0]).max() <= 21


@pytest.mark.parametrize(("objective", "packing"), EVERY_WAY)
def test_any_state_goes_on_with_the_same_rows(objective: str, packing: str) -> None:
    source = batches(objective, packing=packing)
    stream = [next(source) for _ in range(16)]
    assert stream[-1][1]["epoch"] >= 2
    for place in (2, 7, 13):
        resumed = batches(objective, packing=packing)
        resumed.load_state(json.loads(json.dumps(stream[place][1])))
        following, state = next(resumed)
        assert state == stream[place + 1][1]
        for name, value in following[0].items():
            assert torch.equal(value, stream[place + 1][0][0][name]), name


@pytest.mark.parametrize(("objective", "packing"), EVERY_WAY)
def test_rows_do_not_depend_on_micro_batches_but_on_epoch_and_seed(objective: str, packing: str) -> None:
    whole, parts, other = (
        next(batches(objective, packing=packing))[0],
        next(batches(objective, 2, packing=packing))[0],
        next(batches(objective, seed=6, packing=packing))[0],
    )
    assert len(parts) > len(whole) == 1
    for name, value in whole[0].items():
        assert torch.equal(value, torch.cat([part[name] for part in parts])), name
    assert not torch.equal(whole[0]["input_ids"], other[0]["input_ids"])


@pytest.mark.parametrize(("objective", "packing"), EVERY_WAY)
@pytest.mark.parametrize("ranks", [2, 3, 6])
def test_the_rows_of_all_ranks_are_the_rows_of_one_process(objective: str, packing: str, ranks: int) -> None:
    alone = batches(objective, packing=packing)
    shares = [batches(objective, 2, packing=packing) for _ in range(ranks)]
    for rank, windows in enumerate(shares):
        windows.share(rank, ranks)
    for _ in range(14):  # into the second epoch
        (whole,), state = next(alone)
        given = [next(windows) for windows in shares]
        assert all(rank_state == state for _, rank_state in given)
        for name, value in whole.items():
            united = [part[name] for parts, _ in given for part in parts]
            assert len(united) == ranks * -(-6 // ranks // 2)
            assert torch.equal(value, torch.cat(united)), name
    assert state["epoch"] > 0


def test_another_number_of_ranks_goes_on_where_one_process_stopped() -> None:
    alone = batches("mlm", packing="documents")
    state = [next(alone)[1] for _ in range(3)][-1]
    (following,), _ = next(alone)
    resumed = [batches("mlm", packing="documents") for _ in range(3)]
    for rank, windows in enumerate(resumed):
        windows.share(rank, 3)
        windows.load_state(state)
    united = torch.cat([next(windows)[0][0]["input_ids"] for windows in resumed])
    assert torch.equal(united, following["input_ids"])


def test_ranks_that_rows_do_not_divide_among_are_refused_with_those_that_would() -> None:
    with pytest.raises(HallmarkError, match=r"6 rows of a batch do not divide among 4 ranks; allowed: 1, 2, 3, 6"):
        batches("causal").share(0, 4)


def test_too_little_text_is_refused() -> None:
    with pytest.raises(HallmarkError, match="tokens are too few for a window of 3001"):
        fixed_windows(Mixture(tiny_shard()), 3001, 3000)
    lone = TokenShard(tiny_shard().tokens[:50], np.array([0, 50]), "t", 49)
    with pytest.raises(HallmarkError, match="1 documents have 8 tokens or more, and pairs need two"):
        document_windows(Mixture(lone), 20, 8)
