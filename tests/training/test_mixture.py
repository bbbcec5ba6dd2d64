"""Sources with weights: how often each document comes, exactly, in every epoch and over many."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.common.errors import HallmarkError
from pipeline.tokenization.shards import TokenShard
from pipeline.training.masking import NO_TARGET
from pipeline.training.mixture import Mixture, cut_documents
from pipeline.training.objectives import OBJECTIVES, PACKABLE
from pipeline.training.packing import packed_documents
from pipeline.training.windows import Epoch, Windows, document_windows, fixed_windows
from tests.training.tiny import CONTEXT, tiny_objective, tiny_shard, tiny_tokenizer

NAMES = ("a", "b", "c")
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=25)
WEIGHTS = st.fixed_dictionaries({name: st.sampled_from([0, 0.1, 0.25, 0.5, 1, 1.5, 2, 3.3]) for name in NAMES})
SEEDS = st.integers(0, 99)
EVERY_WAY = [
    *((name, "stream") for names in OBJECTIVES.values() for name in names),
    *((name, "documents") for name in PACKABLE),
]


def numbered_shard(lengths: list[int]) -> TokenShard:
    """Documents of these lengths, each of whose tokens is another number; the sources take turns."""
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    sources = np.arange(len(lengths), dtype=np.uint32) % len(NAMES)
    return TokenShard(np.arange(offsets[-1]).astype(np.uint32), offsets, "t", 0, NAMES, sources)


def mixed(lengths: list[int], weights: dict[str, float], seed: int = 0) -> Mixture:
    shard = numbered_shard(lengths)
    return Mixture(shard, {name: weight for name, weight in weights.items() if shard.tokens_by_source()[name]}, seed)


def tokens_of(spans: np.ndarray) -> np.ndarray:
    return np.concatenate([np.arange(0), *(np.arange(first, last) for first, last in spans)])


def rows_of(epoch: Epoch) -> Iterator[np.ndarray]:
    for first, last in epoch.windows_R2:
        yield tokens_of(epoch.pieces_P2[first:last])


def exact(weight: float) -> Fraction:
    return Fraction(str(weight))


@settings(max_examples=150, deadline=None)
@given(LENGTHS, WEIGHTS, SEEDS, st.integers(1, 20), st.integers(1, 9))
def test_all_of_a_source_comes_in_turn_and_as_often_as_its_weight_says(
    lengths: list[int], weights: dict[str, float], seed: int, length: int, epochs: int
) -> None:
    mixture = mixed(lengths, weights, seed)
    units = cut_documents(mixture.shard.offsets, length)
    sources = mixture.shard.document_sources[np.searchsorted(mixture.shard.offsets, units[:, 0], side="right") - 1]
    sizes, counts = units[:, 1] - units[:, 0], mixture.counts(units)
    by_epoch = np.array([counts(epoch) for epoch in range(20)])  # 20 epochs: every weight above goes evenly round
    for place, name in enumerate(NAMES):
        of_source = by_epoch[:, sources == place]
        assert (of_source.sum(axis=0) == 20 * exact(weights[name])).all()
        if not of_source.size:
            continue
        seen = of_source[:epochs].sum(axis=0)
        assert seen.max() - seen.min() <= 1
        wished = epochs * exact(weights[name]) * int(sizes[sources == place].sum())
        assert abs(int((seen * sizes[sources == place]).sum()) - wished) < length + 1
        if exact(weights[name]).denominator == 1:
            assert (of_source == weights[name]).all()


def test_a_half_is_followed_by_the_other_half_and_a_long_document_is_halved_once() -> None:
    mixture = mixed([1000], {"a": 0.5})
    units = cut_documents(mixture.shard.offsets, 10)
    first, second, third = (mixture.counts(units)(epoch) for epoch in range(3))
    assert first.tolist() == [1] * 50 + [0] * 50
    assert (first + second).tolist() == [1] * 100
    assert first.tolist() == third.tolist()
    assert mixture.spans(10)(0).tolist() == [[0, 500]]


def test_the_seed_decides_which_half_comes_first() -> None:
    halves = set()
    for seed in range(8):
        mixture = mixed([10] * 60, {"a": 0.5}, seed)
        halves.add(tuple(mixture.counts(cut_documents(mixture.shard.offsets, 10))(0)))
    assert len(halves) > 4


@settings(max_examples=150, deadline=None)
@given(LENGTHS, WEIGHTS, SEEDS, st.integers(1, 12), st.integers(0, 1), st.integers(0, 3))
def test_windows_are_cut_from_the_text_of_the_epoch(
    lengths: list[int], weights: dict[str, float], seed: int, stride: int, overlap: int, epoch: int
) -> None:
    """Against the epoch's text written out."""
    mixture, length = mixed(lengths, weights, seed), stride + overlap
    try:
        plan = fixed_windows(mixture, length, stride)
    except HallmarkError:
        assert sum(mixture.tokens().values()) < length
        return
    text = tokens_of(mixture.spans(stride)(epoch))
    counts = mixture.counts(cut_documents(mixture.shard.offsets, 1))  # by tokens: an epoch has the same ones to a unit
    assert abs(len(text) - counts(epoch).sum()) <= len(NAMES) * stride
    for generator in (None, np.random.default_rng(seed)):
        rows = list(rows_of(plan(epoch, generator)))
        if len(text) < length:
            assert not rows
            continue
        places = [place for place in range(len(text)) if np.array_equal(text[place : place + length], rows[0])]
        assert places
        assert generator is not None or places[0] == 0
        assert any(
            len(text) - (place + (len(rows) - 1) * stride + length) < stride
            and all(np.array_equal(text[place + at * stride :][:length], row) for at, row in enumerate(rows))
            for place in places
        )


@settings(max_examples=100, deadline=None)
@given(LENGTHS, WEIGHTS, SEEDS, st.integers(1, 24))
def test_packed_rows_hold_each_token_as_often_as_it_comes(
    lengths: list[int], weights: dict[str, float], seed: int, length: int
) -> None:
    mixture = mixed(lengths, weights, seed)
    try:
        plan = packed_documents(mixture, length)
    except HallmarkError:
        assert sum(mixture.tokens().values()) < 1
        return
    found: Counter[int] = Counter()
    for epoch in range(20):
        rows = list(rows_of(plan(epoch, np.random.default_rng([seed, epoch]))))
        assert all(0 < len(row) <= length for row in rows)
        found.update(token for row in rows for token in row.tolist())
    for document, begin in enumerate(mixture.shard.offsets[:-1]):
        times = {found[token] for token in range(begin, mixture.shard.offsets[document + 1])}
        assert times == {20 * exact(weights[NAMES[document % 3]])}


def test_pairs_come_as_often_as_their_weight_says_and_the_other_text_too() -> None:
    mixture = mixed([30, 40, 50] * 4, {"a": 0, "b": 0.5, "c": 2})
    plan = document_windows(mixture, 20, 8)
    found = Counter(token for epoch in range(2) for row in rows_of(plan(epoch, None)) for token in row.tolist())
    for document, begin in enumerate(mixture.shard.offsets[:-1]):
        times = {found[token] for token in range(begin + 1, mixture.shard.offsets[document + 1])}
        assert times == {(0, 1, 4)[document % 3]}


def mixed_sonnets(weights: dict[str, float], objective: str, packing: str, micro_rows: int = 6) -> Windows:
    shard = replace(tiny_shard(), sources=("a", "b"), source_of=np.array([0, 1, 1, 0], dtype=np.uint32))
    made = tiny_objective(objective, packing=packing, source_weights=weights)
    return made.batches(shard, 6 * CONTEXT, micro_rows * CONTEXT, 5)


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(EVERY_WAY),
    st.fixed_dictionaries({"a": st.sampled_from([0.5, 1, 1.75, 3]), "b": st.sampled_from([0, 0.2, 0.5, 2])}),
    st.integers(0, 20),
    st.sampled_from([1, 2, 3, 6]),
)
def test_any_state_goes_on_with_the_same_rows_on_any_number_of_ranks(
    way: tuple[str, str], weights: dict[str, float], place: int, ranks: int
) -> None:
    alone = mixed_sonnets(weights, *way)
    stream = [next(alone) for _ in range(place + 5)]
    shares = [mixed_sonnets(weights, *way, micro_rows=1) for _ in range(ranks)]
    for rank, windows in enumerate(shares):
        windows.share(rank, ranks)
        windows.load_state(json.loads(json.dumps(stream[place][1])))
    for (whole,), state in stream[place + 1 :]:
        parts = [next(windows) for windows in shares]
        assert all(rank_state == state for _, rank_state in parts)
        for name, value in whole.items():
            united = torch.cat([micro[name] for batches, _ in parts for micro in batches])
            assert torch.equal(value, united), name


@pytest.mark.parametrize(("objective", "packing"), EVERY_WAY)
def test_weights_of_one_are_no_weights_and_others_change_the_rows(objective: str, packing: str) -> None:
    ones, none, other = (
        [next(source)[0][0]["input_ids"] for _ in range(12)]
        for source in (
            mixed_sonnets({"a": 1.0, "b": 1.0}, objective, packing),
            mixed_sonnets({}, objective, packing),
            mixed_sonnets({"a": 1.5}, objective, packing),
        )
    )
    assert all(torch.equal(one, plain) for one, plain in zip(ones, none, strict=True))
    assert not all(torch.equal(one, plain) for one, plain in zip(other, none, strict=True))


@pytest.mark.parametrize(("objective", "packing"), EVERY_WAY)
def test_a_source_of_weight_0_is_never_seen(objective: str, packing: str) -> None:
    """One source is of nothing but one letter, which the others do not have."""
    tokenizer = tiny_tokenizer()
    z = tokenizer.encode("z")[0]
    texts = [[tokenizer.bos_id, *(tokenizer.encode(text) if text else [z] * 90)] for text in ("the sea " * 9, "") * 4]
    offsets = np.concatenate(([0], np.cumsum([len(text) for text in texts])))
    sources = np.array([0, 1] * 4, dtype=np.uint32)
    shard = TokenShard(np.concatenate(texts).astype(np.uint16), offsets, tokenizer.hash, 0, ("sea", "zs"), sources)

    def seen(weights: dict[str, float]) -> int:
        batches = tiny_objective(objective, packing=packing, source_weights=weights).batches(shard, 240, None, 1)
        return sum(count_read(next(batches)[0][0], z) for _ in range(12))

    assert seen({"zs": 0}) == 0
    assert seen({"zs": 0.5}) > 0


def count_read(batch: dict[str, Any], token: int) -> int:
    """How often the token is in the text: in what is seen, or in what is hidden, if something is put in its place."""
    labels = batch["labels"]
    if "masked_positions" not in batch:
        return int((batch["input_ids"] == token).sum())
    restored = batch["input_ids"].clone()
    for row, positions in enumerate(batch["masked_positions"]):
        real = labels[row] != NO_TARGET
        restored[row, positions[real]] = labels[row][real]
    return int((restored == token).sum())


def test_validation_measures_all_text_whatever_the_weights() -> None:
    shard = mixed_sonnets({}, "causal", "stream").mixture.shard
    for packing in ("stream", "documents"):
        plain, weighted = (
            tiny_objective("causal", packing=packing, source_weights=weights).validation(shard, 4)
            for weights in ({}, {"a": 0})
        )
        for one, other in zip(plain, weighted, strict=True):
            assert torch.equal(one["input_ids"], other["input_ids"])


def test_epochs_without_a_row_are_gone_through() -> None:
    shard = numbered_shard([30, 30, 30])
    batches = tiny_objective("causal", packing="documents", source_weights={"a": 0, "b": 0, "c": 0.1}).batches(
        shard, CONTEXT, None, seed=1
    )
    epochs = [next(batches)[1]["epoch"] for _ in range(4)]
    assert epochs == sorted(epochs)
    assert 10 <= epochs[-1] < 20


def test_documents_of_a_weighted_batch_are_named() -> None:
    batches = mixed_sonnets({"a": 0, "b": 2.5}, "causal", "stream")
    state = None
    for _ in range(8):
        assert set(batches.origin(state).removeprefix("the training documents ").split(", ")) <= {"1", "2"}
        state = next(batches)[1]


def test_what_cannot_be_is_refused_with_what_can() -> None:
    with pytest.raises(HallmarkError, match=r"no training document is of the source 'd'; allowed: a, b, c"):
        Mixture(numbered_shard([5] * 6), {"d": 2.0})
    with pytest.raises(HallmarkError, match=r"of the source 'c'; allowed: a, b\b"):
        Mixture(numbered_shard([5, 5]), {"c": 2.0})
    nothing = Mixture(numbered_shard([50] * 6), dict.fromkeys(NAMES, 0.0))
    with pytest.raises(HallmarkError, match=r"source_weights: with these weights an epoch has 0 tokens, too few"):
        packed_documents(nothing, 24)
    for plan in (lambda: fixed_windows(nothing, 24, 24), lambda: document_windows(nothing, 24, 8)):
        with pytest.raises(HallmarkError, match="too few"):
            plan()


def test_what_an_epoch_holds_is_told() -> None:
    told = Mixture(numbered_shard([1000, 2000, 3000]), {"b": 0.5, "c": 2}).describe()
    assert told == {
        "source.a": "1 x 1,000 = 1,000 tokens an epoch, 12.5%",
        "source.b": "0.5 x 2,000 = 1,000 tokens an epoch, 12.5%",
        "source.c": "2 x 3,000 = 6,000 tokens an epoch, 75.0%",
    }
    assert Mixture(tiny_shard()).describe() == {}  # one source alone
