"""Texts and pairs as token ids: what stands where, and what is cut."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.common.errors import HallmarkError
from pipeline.tasks.encoding import cut_pair, encode_rows
from pipeline.tokenization.tokenizer import Tokenizer
from tests.tasks.test_classification import tokenizer

__all__ = ["tokenizer"]  # a fixture


def test_a_pair_is_bos_text_separator_pair(tokenizer: Tokenizer) -> None:
    first, second = tokenizer.encode("apple"), tokenizer.encode("hammer saw")
    [row], cut = encode_rows([("apple", "hammer saw")], tokenizer, 40)
    assert row == [tokenizer.bos_id, *first, tokenizer.sep_id, *second]
    assert cut == 0
    assert tokenizer.separator_id == tokenizer.sep_id


def test_the_longer_text_of_a_pair_is_cut_and_pairs_that_were_cut_are_counted(tokenizer: Tokenizer) -> None:
    long = "apple pear plum cherry " * 9
    rows, cut = encode_rows([(long, "saw"), ("saw", long), (long, long), ("saw", "saw")], tokenizer, 11)
    assert cut == 3
    assert [len(row) for row in rows[:3]] == [11, 11, 11]
    saw, whole = tokenizer.encode("saw"), tokenizer.encode(long)
    assert rows[0] == [tokenizer.bos_id, *whole[: 9 - len(saw)], tokenizer.sep_id, *saw]
    assert rows[1] == [tokenizer.bos_id, *saw, tokenizer.sep_id, *whole[: 9 - len(saw)]]
    assert rows[2] == [tokenizer.bos_id, *whole[:4], tokenizer.sep_id, *whole[:5]]


@given(st.integers(0, 40), st.integers(0, 40), st.integers(2, 50))
@settings(deadline=None)
def test_cutting_a_pair_is_taking_tokens_one_by_one_from_the_longer(first: int, second: int, room: int) -> None:
    left, right = first, second
    while left + right > room:
        if left > right or (left == right and first <= second):
            left -= 1
        else:
            right -= 1
    assert cut_pair(first, second, room) == (left, right)


def test_too_few_tokens_for_two_texts_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(HallmarkError, match=r"finetune.max_tokens: 3 tokens have no room for two texts\n.*4 or more"):
        encode_rows([("a", "b")], tokenizer, 3)
    assert encode_rows([], tokenizer, 3) == ([], 0)
