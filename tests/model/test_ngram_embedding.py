"""Vectors of n-grams beside those of tokens."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.common.errors import HallmarkError
from pipeline.common.params import Model
from pipeline.model.cache import DecoderCache
from pipeline.model.config import ModelConfig, derive_config
from pipeline.model.interchange.settings import find_architecture
from pipeline.model.ngram_embedding import BASE, PRIME, ngram_rows
from pipeline.model.positions import document_positions
from pipeline.model.transformer import Transformer
from tests.model.test_parts import TINY, tiny_model

SIZES, BUCKETS = (2, 4), 50
NGRAMS = {"ngram_sizes": SIZES, "ngram_buckets": BUCKETS}


def row_of(ngram: list[int]) -> int:
    """Of an n-gram's tokens, the last one first; where nothing stands, -1."""
    found = 0
    for token in ngram:
        found = (found * BASE + token + 1) % PRIME
    return found % BUCKETS


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 70_000), min_size=1, max_size=7), min_size=1, max_size=3))
def test_rows_are_those_of_a_loop_and_stay_inside_a_document(documents: list[list[int]]) -> None:
    ids = torch.tensor([[token for document in documents for token in document]])
    numbers = torch.tensor([[number for number, document in enumerate(documents) for _ in document]])
    for size, found in zip(SIZES, ngram_rows(ids, document_positions(numbers), SIZES, BUCKETS), strict=True):
        expected = []
        for document in documents:
            padded = [-1] * (size - 1) + document
            expected += [row_of(padded[place : place + size][::-1]) for place in range(len(document))]
        assert found.tolist() == [expected]


@given(st.lists(st.integers(0, 39), min_size=2, max_size=12), st.data())
@settings(max_examples=30, deadline=None)
def test_what_was_read_before_counts(ids: list[int], data: st.DataObject) -> None:
    """Read in two parts, or rows of other lengths beside it: the same rows as at once."""
    cut = data.draw(st.integers(1, len(ids) - 1))
    whole = ngram_rows(torch.tensor([ids]), torch.arange(len(ids))[None], SIZES, BUCKETS)
    room = torch.tensor([ids + [7] * 3])
    places = torch.arange(cut, len(ids))[None]
    rest = ngram_rows(torch.tensor([ids[cut:]]), places, SIZES, BUCKETS, room)
    assert [found[:, cut:].tolist() for found in whole] == [found.tolist() for found in rest]


def test_states_read_step_by_step_are_those_of_the_whole() -> None:
    """Through a cache, whose rows are taken and spread on the way."""
    model, ids = tiny_model(**NGRAMS), torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8]])
    whole = model.hidden_states(ids)
    assert not torch.allclose(whole[:, 1:], tiny_model().hidden_states(ids)[:, 1:])
    cache = DecoderCache.empty(model.config, 2, 6, torch.float32, torch.device("cpu"))
    model.decode(ids[:, :2], positions_BT=torch.arange(2)[None], cache=cache)
    turned = torch.tensor([1, 0])
    cache.take(turned)
    cache = cache.spread(turned, 8)
    for place in range(2, 6):
        found = model.decode(ids[:, place : place + 1], positions_BT=torch.full((2, 1), place), cache=cache)
        torch.testing.assert_close(found[:, 0], whole[:, place], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["decoder", "encoder"])
def test_a_document_is_as_alone(family: str) -> None:
    model = tiny_model(**NGRAMS, family=family)
    ids, documents = torch.tensor([[3, 1, 4, 1, 5, 9, 2]]), torch.tensor([[0, 0, 0, 1, 1, 1, 1]])
    packed = model.hidden_states(ids, documents_BT=documents)
    alone = torch.cat([model.hidden_states(ids[:, :3]), model.hidden_states(ids[:, 3:])], dim=1)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-4)


def test_an_untrained_network_is_as_without() -> None:
    model, without, ids = Transformer(replace(TINY, **NGRAMS)), Transformer(TINY), torch.arange(12)[None]
    without.load_state_dict({name: value for name, value in model.state_dict().items() if "ngrams" not in name})
    assert torch.equal(model.hidden_states(ids), without.hidden_states(ids))


def test_settings_become_a_config_and_come_back_from_json() -> None:
    config, _ = derive_config(Model(ngram_sizes=[2, 3]), 40)
    assert config.ngram_sizes == (2, 3)
    assert ModelConfig.from_dict({**config.to_dict(), "ngram_sizes": [2, 3]}) == config
    assert derive_config(Model(), 40)[0].ngram_sizes == ()


@pytest.mark.parametrize("sizes", [(1,), (3, 2), (2, 2)])
def test_sizes_that_cannot_be_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(HallmarkError, match="ngram_sizes"):
        replace(TINY, ngram_sizes=sizes)


def test_no_published_network_has_them() -> None:
    with pytest.raises(HallmarkError, match=r"ngram_sizes: \[2\]; it would have to be null"):
        find_architecture(derive_config(Model(ngram_sizes=[2]), 40)[0])
