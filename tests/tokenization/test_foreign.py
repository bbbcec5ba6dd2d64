"""Tokenizers as published models have them: built by the library as theirs are, small."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from pipeline.common.errors import HallmarkError
from pipeline.tokenization import pieces as pieces_module
from pipeline.tokenization.tokenizer import Tokenizer
from tests.tokenization.conftest import ANY_TEXT, MANY_LANGUAGES, TRICKY_TEXT

QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def learn(inner: tokenizers.Tokenizer, trainer: Any) -> tokenizers.Tokenizer:
    inner.train_from_iterator(MANY_LANGUAGES * 3, trainer)
    return inner


def byte_bpe(special: list[str]) -> trainers.BpeTrainer:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return trainers.BpeTrainer(vocab_size=320, special_tokens=special, initial_alphabet=alphabet, show_progress=False)


def gpt2() -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.ByteLevel(trim_offsets=False)
    learn(inner, byte_bpe([]))
    inner.add_special_tokens(["<|endoftext|>"])  # behind the others, as in GPT-2
    return inner


def roberta() -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    learn(inner, byte_bpe(["<s>", "<pad>", "</s>", "<unk>"]))
    inner.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    inner.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return inner


def qwen() -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(models.BPE())
    inner.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(QWEN_PATTERN), "isolated")
    inner.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    inner.decoder = decoders.ByteLevel()
    learn(inner, byte_bpe([]))
    inner.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    inner.add_tokens(["<think>", "<a b>"])  # ordinary, though not learned; the second one is not in GPT-2's alphabet
    return inner


def bert() -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    learn(inner, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False))
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    inner.enable_padding(length=30)  # published files have both
    inner.enable_truncation(20)
    return inner


def t5() -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(models.Unigram())
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=special, unk_token="<unk>", show_progress=False, shrinking_factor=0.5
    )
    learn(inner, trainer)
    inner.add_special_tokens([f"<extra_id_{number}>" for number in reversed(range(100))])
    return inner


FOREIGN = {"gpt2": gpt2, "roberta": roberta, "qwen": qwen, "bert": bert, "t5": t5}


def published(make: Callable[[], tokenizers.Tokenizer]) -> Tokenizer:
    return Tokenizer(make().to_str().encode())


@pytest.fixture(scope="module")
def foreign() -> dict[str, Tokenizer]:
    return {name: published(make) for name, make in FOREIGN.items()}


@pytest.mark.parametrize("name", FOREIGN)
def test_ids_are_those_of_the_bare_library_without_special_ones(name: str) -> None:
    inner = FOREIGN[name]()
    tokenizer = Tokenizer(inner.to_str().encode())
    inner.no_padding()
    inner.no_truncation()
    for text in MANY_LANGUAGES:
        assert tokenizer.encode(text) == inner.encode(text, add_special_tokens=False).ids
    assert tokenizer.vocab_size == inner.get_vocab_size()


@pytest.mark.parametrize(
    ("name", "pad", "bos", "eos", "mask", "sentinels"),
    [
        ("gpt2", "<|endoftext|>", "<|endoftext|>", "<|endoftext|>", None, 0),
        ("roberta", "<pad>", "<s>", "</s>", "<mask>", 0),
        ("qwen", "<|im_end|>", "<|endoftext|>", "<|im_end|>", None, 0),
        ("bert", "[PAD]", "[CLS]", "[SEP]", "[MASK]", 0),
        ("t5", "<pad>", "<pad>", "</s>", None, 100),
    ],
)
def test_roles_are_found(
    foreign: dict[str, Tokenizer], name: str, pad: str, bos: str, eos: str, mask: str | None, sentinels: int
) -> None:
    tokenizer = foreign[name]
    place = tokenizer._inner.token_to_id
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (place(pad), place(bos), place(eos))
    assert tokenizer.mask_id == (None if mask is None else place(mask))
    assert tokenizer.sentinel_ids == tuple(place(f"<extra_id_{number}>") for number in range(sentinels))
    assert {tokenizer.pad_id, tokenizer.bos_id, *tokenizer.sentinel_ids} <= tokenizer.special_ids


@pytest.mark.parametrize("name", ["gpt2", "roberta"])
@given(text=ANY_TEXT | TRICKY_TEXT)
def test_byte_level_ones_give_back_any_text(foreign: dict[str, Tokenizer], name: str, text: str) -> None:
    tokenizer = foreign[name]
    ids = tokenizer.encode(text)
    assert tokenizer.is_lossless
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(np.array(ids, dtype=np.int64)).tobytes() == text.encode()
    assert not tokenizer.special_ids & set(ids)


@given(text=ANY_TEXT | TRICKY_TEXT | st.just("<think> <a b>!"))
def test_a_composing_one_gives_back_the_composed_text(foreign: dict[str, Tokenizer], text: str) -> None:
    tokenizer = foreign["qwen"]
    assert tokenizer.is_byte_level
    assert not tokenizer.is_lossless
    composed = normalizers.NFC().normalize_str(text)
    assert tokenizer.decode_bytes(np.array(tokenizer.encode(text), dtype=np.int64)).tobytes() == composed.encode()


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_lossy_ones_have_no_bytes(foreign: dict[str, Tokenizer], name: str) -> None:
    assert not foreign[name].is_lossless
    with pytest.raises(HallmarkError, match="do not stand for certain bytes"):
        _ = foreign[name].token_bytes


def test_what_changes_text_is_not_lossless() -> None:
    inner = gpt2()
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    assert not Tokenizer(inner.to_str().encode()).is_lossless
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    assert not Tokenizer(inner.to_str().encode()).is_lossless


@pytest.mark.parametrize("name", FOREIGN)
@given(text=TRICKY_TEXT)
def test_pieces_have_the_tokens_of_the_whole(foreign: dict[str, Tokenizer], name: str, text: str) -> None:
    tokenizer = foreign[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces_module, "PIECE_CHARACTERS", 3)
        parts = list(tokenizer.pieces(text))
    assert [token for ids in tokenizer.encode_batch(parts) for token in ids] == tokenizer.encode(text)


def test_words_begin_at_spaces_and_signs(foreign: dict[str, Tokenizer]) -> None:
    for name, tokenizer in foreign.items():
        for token in tokenizer.encode("The quick brown fox, jumps"):
            written = str(tokenizer._inner.id_to_token(token))
            expected = not written.startswith("##") if name == "bert" else written[0] in "Ġ▁,"
            assert tokenizer.starts_word[token] == expected, (name, written)


def test_ids_may_have_gaps() -> None:
    vocabulary = {"[UNK]": 0, "[PAD]": 2, "[CLS]": 3, "[SEP]": 4, "a": 9, "##b": 12}
    inner = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    inner.add_special_tokens(["[UNK]", "[PAD]", "[CLS]", "[SEP]"])
    tokenizer = Tokenizer(inner.to_str().encode())
    assert tokenizer.vocab_size == 13
    assert np.flatnonzero(~tokenizer.is_special).tolist() == [9, 12]
    assert tokenizer.special_ids == {0, 2, 3, 4}
    assert np.flatnonzero(~tokenizer.starts_word).tolist() == [12]
    assert tokenizer.decode(tokenizer.encode("ab a")) == "ab a"


def test_one_that_cannot_begin_a_document_is_refused() -> None:
    inner = tokenizers.Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    with pytest.raises(HallmarkError, match=r"can begin a document or pad one; allowed: .*<\|bos\|>, .*\[CLS\]"):
        Tokenizer(inner.to_str().encode())
