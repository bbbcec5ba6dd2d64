"""Packed documents: nothing lost, nothing twice, never too long, and each as if it were alone in its row."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.common.errors import HallmarkError
from pipeline.common.parts import PART_CHOICES
from pipeline.model.transformer import Transformer
from pipeline.tokenization.shards import TokenShard
from pipeline.training.masking import NO_TARGET
from pipeline.training.mixture import Mixture
from pipeline.training.objectives import PACKABLE, PretrainingLoss, Validation
from pipeline.training.packing import best_fit, packed_documents
from pipeline.training.windows import Epoch
from tests.training.tiny import CONTEXT, PRESETS, tiny_config, tiny_objective, tiny_runtime, tiny_shard, tiny_tokenizer

LENGTHS = st.lists(st.integers(1, 70), min_size=1, max_size=60)
CAPACITY = st.integers(1, 24)


def numbered_shard(lengths: list[int]) -> TokenShard:
    """Documents of these lengths, each of whose tokens is another number."""
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    return TokenShard(np.arange(1000, 1000 + offsets[-1]).astype(np.uint32), offsets, "t", 0)


def rows_of(epoch: Epoch) -> list[np.ndarray]:
    return [epoch.pieces_P2[first:last] for first, last in epoch.windows_R2]


@settings(max_examples=200, deadline=None)
@given(LENGTHS, CAPACITY, st.one_of(st.none(), st.integers(0, 99)))
def test_every_token_is_in_one_row_and_only_long_documents_are_cut(
    lengths: list[int], capacity: int, seed: int | None
) -> None:
    def plan() -> Epoch:
        generator = None if seed is None else np.random.default_rng(seed)
        return packed_documents(Mixture(numbered_shard(lengths)), capacity)(0, generator)

    epoch = plan()
    rows = rows_of(epoch)
    assert sum(len(row) for row in rows) == len(epoch.pieces_P2)
    held = np.concatenate([np.arange(first, last) for row in rows for first, last in row])
    assert np.array_equal(np.sort(held), np.arange(sum(lengths)))
    assert all(0 < (row[:, 1] - row[:, 0]).sum() <= capacity for row in rows)
    begins = (np.cumsum(lengths) - lengths).tolist()
    cuts = [begin + part for begin, length in zip(begins, lengths, strict=True) for part in range(0, length, capacity)]
    assert np.sort(epoch.pieces_P2[:, 0]).tolist() == cuts
    for one, other in zip(epoch, plan(), strict=True):
        assert np.array_equal(one, other)


@settings(max_examples=200, deadline=None)
@given(LENGTHS, st.integers(70, 200))
def test_best_fit_against_a_loop_over_all_rows(lengths: list[int], capacity: int) -> None:
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [row for row, room in enumerate(rooms) if room >= length]
        if fitting:
            rooms[min(fitting, key=rooms.__getitem__)] -= length
        else:
            rooms.append(capacity - length)
    rows = best_fit(np.array(lengths), capacity)
    used = np.bincount(rows, weights=sorted(lengths, reverse=True))
    assert sorted((capacity - used).tolist()) == sorted(rooms)


def test_another_epoch_packs_others_together_and_validation_keeps_the_order_of_the_text() -> None:
    plan = packed_documents(Mixture(numbered_shard([5, 6, 7] * 20)), 24)
    neighbours = [
        {tuple(sorted(row[:, 0].tolist())) for row in rows_of(plan(0, np.random.default_rng(seed)))} for seed in (1, 2)
    ]
    assert len(neighbours[0]) == len(neighbours[1])
    assert neighbours[0] != neighbours[1]
    first_tokens = [int(row[0, 0]) for row in rows_of(plan(0, None))]
    assert first_tokens == sorted(first_tokens)


def test_a_token_is_input_once_and_label_once_and_a_document_ends_with_bos() -> None:
    lengths = [1, 2, 50, 24, 25, 3, 9, 9, 9]
    shard, bos = numbered_shard(lengths), tiny_tokenizer().bos_id
    (batch,) = tiny_objective("causal", packing="documents").validation(shard, 100)
    real = batch["labels"] != NO_TARGET
    inputs, labels = batch["input_ids"][real].numpy(), batch["labels"][real].numpy()
    assert np.array_equal(np.sort(inputs), shard.tokens)
    assert dict(zip(inputs.tolist(), labels.tolist(), strict=True)) == dict(pairwise([*shard.tokens.tolist(), bos]))
    assert (batch["input_ids"][~real] == tiny_tokenizer().pad_id).all()
    for documents, ids, row in zip(batch["documents"], batch["input_ids"], real, strict=True):
        numbers = np.searchsorted(shard.offsets, ids[row].numpy() - 1000, side="right")
        assert np.array_equal(np.diff(documents[row].numpy()) != 0, np.diff(numbers) != 0)
        assert not set(documents[row].tolist()) & set(documents[~row].tolist())


def test_the_documents_of_a_packed_batch_are_named() -> None:
    shard = numbered_shard([50, 3, 4, 5, 6, 7, 8, 9, 10])
    batches = tiny_objective("causal", packing="documents").batches(shard, 2 * CONTEXT, None, seed=1)
    state = None
    for _ in range(4):
        named = batches.origin(state)
        (batch,), state = next(batches)
        ids = batch["input_ids"][batch["labels"] != NO_TARGET].numpy()
        numbers = sorted(set((np.searchsorted(shard.offsets, ids - 1000, side="right") - 1).tolist()))
        assert named == "the training documents " + ", ".join(map(str, numbers))


def packed_batch(objective: str, rows: int = 4, micro_rows: int = 4) -> list[dict[str, Tensor]]:
    """Rows of documents that are much shorter than the context, and of one that is longer."""
    text = tiny_shard().tokens
    shard = TokenShard(text, np.array([0, 7, 12, 15, 16, 70, 76, 84, 93, 99, 104, 110]), "t", 0)
    objective_made = tiny_objective(objective, packing="documents")
    return next(objective_made.batches(shard, rows * CONTEXT, micro_rows * CONTEXT, seed=3))[0]


def random_model(objective: str, **changes: Any) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(tiny_config(objective, **changes)).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def gradients(model: Transformer, states: Tensor, weights: Tensor) -> list[Tensor]:
    model.zero_grad()
    (model.logits(states) * weights).sum().backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def check_that_documents_are_as_alone(objective: str, **changes: Any) -> None:
    """Logits and gradients of a packed batch against those of its documents, one by one."""
    (batch,) = packed_batch(objective)
    assert int(batch["documents"].max()) > 1
    model = random_model(objective, **changes)
    packed_BTD = model.hidden_states(batch["input_ids"], prefix_BS=batch.get("prefix"), documents_BT=batch["documents"])
    alone_BTD = torch.zeros_like(packed_BTD)
    for row, documents in enumerate(batch["documents"]):
        for number in documents.unique():
            places = (documents == number).nonzero()[:, 0]
            prefix = batch["prefix"][row, places[:1]][None] if "prefix" in batch else None
            alone_BTD[row, places] = model.hidden_states(batch["input_ids"][row, places][None], prefix_BS=prefix)[0]
    torch.testing.assert_close(packed_BTD, alone_BTD, atol=1e-10, rtol=1e-8)
    weights = torch.randn_like(model.logits(packed_BTD))
    for packed, alone in zip(gradients(model, packed_BTD, weights), gradients(model, alone_BTD, weights), strict=True):
        torch.testing.assert_close(packed, alone, atol=1e-9, rtol=1e-8)


@pytest.mark.parametrize("positions", PART_CHOICES["positions"])
@pytest.mark.parametrize("objective", PACKABLE)
def test_a_packed_document_is_as_alone(objective: str, positions: str) -> None:
    check_that_documents_are_as_alone(objective, positions=positions)


@pytest.mark.parametrize("objective", PACKABLE)
def test_a_packed_document_is_as_alone_behind_a_sliding_window(objective: str) -> None:
    check_that_documents_are_as_alone(objective, sliding_window=3)


@pytest.mark.parametrize("objective", PACKABLE)
def test_micro_batches_of_packed_rows_do_not_change_the_gradient(objective: str) -> None:
    model = random_model(objective)
    loss = PretrainingLoss(tiny_runtime(precision="float32"))
    found: list[list[Tensor]] = []
    for micro_rows in (6, 4, 1):
        batches = packed_batch(objective, 6, micro_rows)
        assert len(batches) == -(-6 // micro_rows)
        model.zero_grad()
        targets = 0
        for batch in batches:
            nats, count = loss(model, batch)
            nats.backward()
            targets += int(count)
        found.append([p.grad / targets for p in model.parameters() if p.grad is not None])
    for other in found[1:]:
        for whole, parts in zip(found[0], other, strict=True):
            torch.testing.assert_close(whole, parts, atol=1e-12, rtol=1e-10)


def test_what_is_masked_in_a_packed_row_gives_its_documents_back() -> None:
    tokenizer, shard = tiny_tokenizer(), tiny_shard()
    objective = tiny_objective("mlm", packing="documents")
    make_row, rows = objective.make_row(Mixture(shard)), rows_of(objective.plan(Mixture(shard))(0, None))
    for place, pieces in enumerate(rows):
        row = make_row(pieces, np.random.default_rng(place))
        hidden = row["labels"] != NO_TARGET
        row["input_ids"][row["masked_positions"][hidden]] = row["labels"][hidden]
        texts = np.concatenate([shard.tokens[first:last] for first, last in pieces])
        assert row["input_ids"].tolist() == [*texts, *[tokenizer.pad_id] * (CONTEXT - len(texts))]
        assert not tokenizer.is_special[row["labels"][hidden]].any()
    assert any((row[:, 1] - row[:, 0]).sum() < CONTEXT for row in rows)


def test_validation_on_packed_documents_counts_every_byte_of_the_text() -> None:
    objective, model = tiny_objective("causal", packing="documents"), Transformer(tiny_config("causal")).eval()
    assert model.lm_head is not None
    torch.nn.init.zeros_(model.lm_head.weight)
    validation = Validation(objective, tiny_shard(), tiny_tokenizer(), 4, torch.device("cpu"))
    assert validation.target_bytes is not None
    labels = torch.cat([batch["labels"].flatten() for batch in validation.batches])
    assert validation.target_bytes[labels[labels != NO_TARGET]].sum() == tiny_shard().text_bytes
    assert validation(model)["bits_per_byte"] == pytest.approx(np.log2(tiny_tokenizer().vocab_size), rel=1e-5)


@pytest.mark.parametrize("objective", PRESETS)
def test_no_document_sees_another_unless_that_is_asked_for(objective: str) -> None:
    (batch,) = tiny_objective(objective, packing=None).validation(tiny_shard(), 1000)
    assert ("documents" in batch) == (objective in PACKABLE)
    (batch,) = tiny_objective(objective, packing="stream").validation(tiny_shard(), 1000)
    assert "documents" not in batch


@pytest.mark.parametrize("objective", ["mlm+nsp", "span-corruption"])
def test_objectives_that_have_rows_of_their_own_are_refused(objective: str) -> None:
    with pytest.raises(
        HallmarkError, match=r"(?s)pretrain.packing: the packing documents does not go.*allowed: causal, prefix-lm, mlm"
    ):
        tiny_objective(objective, packing="documents")


def test_no_document_is_refused() -> None:
    with pytest.raises(HallmarkError, match="there is no document to pack"):
        packed_documents(Mixture(TokenShard(np.zeros(0, dtype=np.uint16), np.array([0]), "t", 0)), 8)
