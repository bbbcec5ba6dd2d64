import pytest

from pipeline.tokenization.quality import longest_tokens, measure
from pipeline.tokenization.tokenizer import Tokenizer


def test_measure_counts_what_it_encodes(tokenizer: Tokenizer) -> None:
    texts = ["Zwölf logging handlers", "中文 🎉"]
    ids = [tokenizer.encode(text) for text in texts]
    found = measure(tokenizer, texts)
    assert found["tokens"] == sum(map(len, ids))
    assert found["characters"] == sum(map(len, texts))
    assert found["bytes"] == sum(len(text.encode()) for text in texts)
    assert found["bytes_per_token"] == found["bytes"] / found["tokens"]
    assert found["vocabulary_used"] == pytest.approx(len(set(ids[0] + ids[1])) / (tokenizer.vocab_size - 37))
    assert found["unknown_share"] == 0


def test_unknown_words_are_counted(by_kind: dict[str, Tokenizer]) -> None:
    found = measure(by_kind["wordpiece"], ["the ᚠ the ᚠᚠ"])
    assert found["unknown_share"] == 2 / found["tokens"]
    used = len(set(by_kind["wordpiece"].encode("the")))
    assert found["vocabulary_used"] == pytest.approx(used / (by_kind["wordpiece"].vocab_size - 38))


def test_measure_of_no_text_is_zero(tokenizer: Tokenizer) -> None:
    assert measure(tokenizer, [])["bytes_per_token"] == 0


def test_longest_tokens_are_in_order(tokenizer: Tokenizer) -> None:
    longest = longest_tokens(tokenizer, 5)
    sizes = [len(text.encode()) for text in longest]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == tokenizer.token_bytes.max()


def test_longest_tokens_of_a_lossy_tokenizer(by_kind: dict[str, Tokenizer]) -> None:
    tokenizer = by_kind["wordpiece"]
    longest = longest_tokens(tokenizer, tokenizer.vocab_size)
    assert [len(text.encode()) for text in longest] == sorted((len(text.encode()) for text in longest), reverse=True)
    assert longest[-38:] == [""] * 38
