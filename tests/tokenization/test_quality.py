import pytest

from pipeline.tokenization.quality import longest_tokens, measure
from pipeline.tokenization.tokenizer import SPECIAL_TOKENS, Tokenizer


def test_measure_counts_what_it_encodes(tokenizer: Tokenizer) -> None:
    texts = ["Zwölf logging handlers", "中文 🎉"]
    ids = [tokenizer.encode(text) for text in texts]
    found = measure(tokenizer, texts)
    assert found["tokens"] == sum(map(len, ids))
    assert found["characters"] == sum(map(len, texts))
    assert found["bytes"] == sum(len(text.encode()) for text in texts)
    assert found["bytes_per_token"] == found["bytes"] / found["tokens"]
    assert found["vocabulary_used"] == pytest.approx(
        len(set(ids[0] + ids[1])) / (tokenizer.vocab_size - len(SPECIAL_TOKENS))
    )


def test_measure_of_no_text_is_zero(tokenizer: Tokenizer) -> None:
    assert measure(tokenizer, [])["bytes_per_token"] == 0


def test_longest_tokens_are_in_order(tokenizer: Tokenizer) -> None:
    longest = longest_tokens(tokenizer, 5)
    sizes = [len(text.encode()) for text in longest]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == tokenizer.token_bytes.max()
