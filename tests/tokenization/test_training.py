"""Every kind of tokenizer: what goes in comes back, and the same texts give the same bytes."""

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers, pre_tokenizers

from pipeline.common.errors import HallmarkError
from pipeline.tokenization import pieces as pieces_module
from pipeline.tokenization.roles import SPECIAL_TOKENS, UNK
from pipeline.tokenization.tokenizer import Tokenizer
from pipeline.tokenization.training import KINDS, SMALLEST_VOCABULARY, train_bpe, train_tokenizer
from tests.tokenization.conftest import ANY_TEXT, LOSSLESS, TRICKY_TEXT

EVERY_KIND = [*KINDS, "uncased"]


@pytest.mark.parametrize("kind", LOSSLESS)
@given(text=ANY_TEXT | TRICKY_TEXT)
def test_any_text_comes_back_exactly(by_kind: dict[str, Tokenizer], kind: str, text: str) -> None:
    tokenizer = by_kind[kind]
    ids = tokenizer.encode(text)
    assert tokenizer.is_lossless
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(np.array(ids, dtype=np.int64)).tobytes() == text.encode()
    assert tokenizer.token_bytes[ids].sum() == len(text.encode())


def bert_words(text: str, lowercase: bool) -> list[str]:
    """The words that BERT's rules make of a text, by the reference implementation of both."""
    normal = normalizers.BertNormalizer(lowercase=lowercase).normalize_str(text)
    return [word for word, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(normal)]


def longest_match(word: str, vocabulary: set[str]) -> list[str] | None:
    """WordPiece as its definition reads: the longest known beginning, then again; None if there is none."""
    found: list[str] = []
    rest = word
    while rest:
        mark = "##" if found else ""
        sizes = [size for size in range(len(rest), 0, -1) if mark + rest[:size] in vocabulary]
        if not sizes:
            return None
        found.append(mark + rest[: sizes[0]])
        rest = rest[sizes[0] :]
    return found


@pytest.mark.parametrize("kind", ["wordpiece", "uncased"])
@given(text=ANY_TEXT | TRICKY_TEXT)
def test_wordpiece_gives_back_its_known_words_normalised(by_kind: dict[str, Tokenizer], kind: str, text: str) -> None:
    tokenizer = by_kind[kind]
    names = json.loads(tokenizer._content)["model"]["vocab"]
    ordinary = set(names) - set(SPECIAL_TOKENS) - {UNK}
    words = bert_words(text, kind == "uncased")
    matched = [None if len(word) > 100 else longest_match(word, ordinary) for word in words]
    expected = [names[name] for match in matched for name in match or [UNK]]
    ids = tokenizer.encode(text)
    assert ids == expected
    known = " ".join(word for word, match in zip(words, matched, strict=True) if match)
    assert tokenizer.decode(ids) == known
    assert tokenizer.encode(known) == [place for place in ids if place != tokenizer.unk_id]


def test_uncased_reads_in_lower_case_and_without_accents(by_kind: dict[str, Tokenizer]) -> None:
    upper = "ZWÖLF Boxkämpfer"
    plain = "".join(c for c in unicodedata.normalize("NFD", upper.lower()) if unicodedata.category(c) != "Mn")
    assert by_kind["uncased"].encode(upper) == by_kind["uncased"].encode(plain)
    assert by_kind["wordpiece"].encode(upper) != by_kind["wordpiece"].encode(plain)
    assert not by_kind["wordpiece"].is_lossless


@pytest.mark.parametrize("kind", EVERY_KIND)
@given(text=ANY_TEXT | TRICKY_TEXT)
def test_names_of_special_tokens_are_plain_text(by_kind: dict[str, Tokenizer], kind: str, text: str) -> None:
    tokenizer = by_kind[kind]
    assert not (tokenizer.special_ids - {tokenizer.unk_id}) & set(tokenizer.encode(text))


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_special_tokens_are_never_learned(kind: str) -> None:
    names = "".join(SPECIAL_TOKENS) + UNK
    learned = train_tokenizer([names, f"{names} {names}"] * 100, kind, 400)
    assert not (learned.special_ids - {learned.unk_id}) & set(learned.encode(f"{names} a{names}\n{names}"))


@pytest.mark.parametrize("kind", EVERY_KIND)
@given(batch=st.lists(ANY_TEXT | TRICKY_TEXT, max_size=5))
def test_a_batch_is_its_texts_one_by_one(by_kind: dict[str, Tokenizer], kind: str, batch: list[str]) -> None:
    assert by_kind[kind].encode_batch(batch) == [by_kind[kind].encode(text) for text in batch]


@pytest.mark.parametrize("kind", EVERY_KIND)
@given(text=TRICKY_TEXT)
def test_pieces_have_the_tokens_of_the_whole(by_kind: dict[str, Tokenizer], kind: str, text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces_module, "PIECE_CHARACTERS", 3)
        parts = list(by_kind[kind].pieces(text))
    assert "".join(parts) == text
    assert [token for ids in by_kind[kind].encode_batch(parts) for token in ids] == by_kind[kind].encode(text)


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_special_tokens_come_first_in_every_kind(by_kind: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = by_kind[kind]
    first = [tokenizer.require(role) for role in ("pad", "bos", "eos", "sep", "mask")]
    assert [*first, *tokenizer.require_sentinels(32)] == list(range(37))
    assert tokenizer.unk_id == (37 if kind in ("wordpiece", "uncased") else None)
    assert sorted(tokenizer.special_ids) == list(range(37 + (tokenizer.unk_id is not None)))
    assert tokenizer.is_special.nonzero()[0].tolist() == sorted(tokenizer.special_ids)
    assert tokenizer.decode([tokenizer.bos_id, *tokenizer.encode("text"), 36, tokenizer.pad_id]) == "text"


@pytest.mark.parametrize("kind", KINDS)
def test_the_vocabulary_is_as_large_as_wished_where_the_text_allows_it(texts: list[str], kind: str) -> None:
    found = train_tokenizer(texts, kind, 350).vocab_size
    assert found == SMALLEST_VOCABULARY if kind == "bytes" else SMALLEST_VOCABULARY < found <= 350
    if kind in ("bpe", "unigram", "wordpiece"):
        assert found == 350


@pytest.mark.parametrize("kind", KINDS)
def test_too_little_text_gives_a_smaller_vocabulary(kind: str) -> None:
    assert train_tokenizer(["abab abab"], kind, 5000).vocab_size < 300
    assert train_tokenizer([], kind, 5000).vocab_size == (38 if kind == "wordpiece" else SMALLEST_VOCABULARY)


def test_characters_are_tokens_if_they_repeat_and_bytes_if_not() -> None:
    tokenizer = train_tokenizer(["中国中国 é"], "characters", 400)
    assert tokenizer.vocab_size == SMALLEST_VOCABULARY + 2
    assert [len(tokenizer.encode(text)) for text in ("中国", "é", "中é a")] == [2, 2, 5]
    small = train_tokenizer(["中中国国国"], "characters", SMALLEST_VOCABULARY + 1)
    assert [len(small.encode(text)) for text in ("国", "中")] == [1, 3]  # the most frequent one has the place


def test_more_is_learned_from_text_than_bytes(texts: list[str]) -> None:
    sizes = {kind: sum(map(len, train_tokenizer(texts, kind, 600).encode_batch(texts))) for kind in LOSSLESS}
    assert sizes["bytes"] > sizes["characters"] > 2 * sizes["bpe"]
    assert sizes["unigram"] < 1.1 * sizes["bpe"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", ["a\ud800", "\udc80"])
def test_lone_surrogates_are_refused(by_kind: dict[str, Tokenizer], kind: str, text: str) -> None:
    with pytest.raises(HallmarkError, match=r"text 1: .* UTF-8 cannot hold"):
        by_kind[kind].encode_batch(["fine", text])
    with pytest.raises(HallmarkError, match=r"text 1: .* UTF-8 cannot hold"):
        train_tokenizer(["fine", text], kind, 300)


def test_what_cannot_be_learned_is_refused() -> None:
    with pytest.raises(HallmarkError, match=r"vocab_size: a vocabulary of 100 is too small .*\n.*293 or more"):
        train_bpe(["text"], 100)
    with pytest.raises(HallmarkError, match=r"kind: there is no kind 'bpee'; allowed: bpe, wordpiece, unigram"):
        train_tokenizer(["text"], "bpee", 300)
    with pytest.raises(HallmarkError, match=r"lowercase: kind bpe gives back text exactly"):
        train_tokenizer(["text"], "bpe", 300, lowercase=True)


LEARN = """
import json, sys
from pipeline.tokenization.training import KINDS, train_tokenizer
texts = json.load(sys.stdin)
print(*(train_tokenizer(texts, kind, 600).hash for kind in KINDS))
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_learning_gives_the_same_bytes_in_every_process(texts: list[str], threads: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEARN],
        input=json.dumps(texts),
        env=os.environ | {"RAYON_NUM_THREADS": threads, "OMP_NUM_THREADS": threads, "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [train_tokenizer(texts, kind, 600).hash for kind in KINDS]
