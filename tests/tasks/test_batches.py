"""Batches: every example once an epoch, few shapes, and exactly the same after a resume."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tasks.batches import Batch, LengthBuckets, bucket_lengths, every_few, pad_rows, smallest_fitting


def source(lengths: list[int], batch_size: int = 4, seed: int = 0) -> LengthBuckets:
    def collate(numbers: np.ndarray, length: int) -> Batch:
        ids, counts = pad_rows([[n + 1] * lengths[n] for n in numbers], batch_size, length, 0)
        return {"input_ids": ids, "lengths": counts}

    return LengthBuckets(np.array(lengths), bucket_lengths(96), batch_size, collate, seed)


@given(st.integers(1, 5000))
def test_the_lengths_are_few_and_the_longest_text_fits(longest: int) -> None:
    buckets = bucket_lengths(longest)
    assert len(buckets) <= 32
    assert not (buckets[:-1] % 8).any()
    assert buckets[-1] == longest
    assert (np.diff(buckets) > 0).all()
    fitting = smallest_fitting(np.arange(1, longest + 1), buckets)
    assert (fitting >= np.arange(1, longest + 1)).all()


def test_default_lengths() -> None:
    assert bucket_lengths(256).tolist() == list(range(32, 257, 8))
    assert bucket_lengths(512).tolist() == list(range(32, 513, 16))
    assert bucket_lengths(52).tolist() == [32, 40, 48, 52]
    assert bucket_lengths(20).tolist() == [20]
    assert bucket_lengths(5).tolist() == [5]


@given(st.integers(1, 600), st.integers(1, 8))
def test_of_the_lengths_a_few_are_taken(longest: int, most: int) -> None:
    buckets = bucket_lengths(longest)
    few = every_few(buckets, most)
    assert len(few) <= most
    assert few[-1] == longest
    assert set(few.tolist()) <= set(buckets.tolist())
    assert len(few) == len(buckets) or 2 * len(few) > most


def test_padded_to_few_lengths_every_example_comes_in_one_of_them() -> None:
    batches = source(list(range(1, 97)))
    batches.pad_to_few(3)
    assert batches.buckets.tolist() == [48, 72, 96]
    lengths = [next(batches)[0][0]["input_ids"].shape[1] for _ in range(batches.steps_per_epoch)]
    assert sorted(lengths) == [48] * 12 + [72] * 6 + [96] * 6
    assert batches.tokens_per_epoch == 4 * sum(lengths)


@given(st.lists(st.integers(1, 96), min_size=1, max_size=30), st.integers(1, 7))
@settings(max_examples=40, deadline=None)
def test_an_epoch_has_every_example_once_in_batches_of_one_size(lengths: list[int], batch_size: int) -> None:
    batches = source(lengths, batch_size)
    for epoch in range(2):
        seen, positions = [], 0
        for _ in range(batches.steps_per_epoch):
            [batch], state = next(batches)
            assert batch["input_ids"].shape[0] == batch_size
            assert batch["input_ids"].shape[1] in bucket_lengths(96)
            assert state["epoch"] == epoch
            seen += [int(row[0]) - 1 for row in batch["input_ids"] if row[0] > 0]
            positions += batch["input_ids"].numel()
        assert sorted(seen) == list(range(len(lengths)))
        assert positions == batches.tokens_per_epoch
    assert batches.steps_per_epoch == -(-len(lengths) // batch_size)


def test_epochs_differ_and_the_seed_decides_them() -> None:
    lengths = list(range(1, 41))

    def orders(seed: int) -> list[list[int]]:
        batches = source(lengths, seed=seed)
        return [next(batches)[0][0]["input_ids"][:, 0].tolist() for _ in range(20)]

    assert orders(1) == orders(1)
    assert orders(1) != orders(2)
    assert orders(1)[:10] != orders(1)[10:]


@pytest.mark.parametrize("done", [0, 1, 9, 10, 11, 25])
def test_a_resumed_source_goes_on_exactly(done: int) -> None:
    lengths = list(range(1, 41))
    first, state = source(lengths), {"epoch": 0, "position": 0}
    for _ in range(done):
        _, state = next(first)
    second = source(lengths)
    second.load_state(json.loads(json.dumps(state)))
    for _ in range(15):
        [expected], expected_state = next(first)
        [found], found_state = next(second)
        assert torch.equal(expected["input_ids"], found["input_ids"])
        assert expected_state == found_state


def test_the_origin_names_the_examples_of_the_batch_after_a_state() -> None:
    lengths = [3, 40, 41, 90, 8, 5, 60]
    batches, state = source(lengths, batch_size=2), None
    for _ in range(3 * batches.steps_per_epoch):
        named = batches.origin(state)
        [batch], state = next(batches)
        examples = batch["input_ids"][batch["lengths"] > 0, 0] - 1
        assert named == "the rows " + ", ".join(str(int(number)) for number in examples)


def test_one_pass_gives_every_example_with_its_numbers() -> None:
    lengths = [3, 90, 40, 7, 64]
    batches = source(lengths, batch_size=2)
    for _ in range(2):  # a pass leaves no trace
        numbers = [n for some, _ in batches.one_pass() for n in some]
        assert sorted(numbers) == [0, 1, 2, 3, 4]
    for some, batch in batches.one_pass():
        assert batch["lengths"].tolist()[: len(some)] == [lengths[n] for n in some]
