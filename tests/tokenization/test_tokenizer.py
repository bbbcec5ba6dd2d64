"""The contract of `Tokenizer`: identity, bytes of tokens, roles, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common.errors import HallmarkError
from pipeline.tokenization.roles import SPECIAL_TOKENS
from pipeline.tokenization.tokenizer import TOKENIZER_FILE, Tokenizer
from pipeline.tokenization.training import KINDS


@given(st.lists(st.integers(0, 399)))
def test_decoded_bytes_are_those_of_each_token(tokenizer: Tokenizer, ids: list[int]) -> None:
    one_by_one = b"".join(tokenizer.decode_bytes(np.array([token])).tobytes() for token in ids)
    assert tokenizer.decode_bytes(np.array(ids, dtype=np.int64)).tobytes() == one_by_one
    assert tokenizer.decode(ids) == one_by_one.decode(errors="replace")


def test_special_tokens_stand_for_no_text(tokenizer: Tokenizer) -> None:
    assert tokenizer.token_bytes[:37].tolist() == [0] * 37
    assert tokenizer.token_bytes[37:].min() == 1


def test_the_bytes_of_a_lossy_tokenizer_are_refused(by_kind: dict[str, Tokenizer]) -> None:
    with pytest.raises(HallmarkError, match=r"do not stand for certain bytes.*\n.*bpe, unigram, bytes or characters"):
        by_kind["wordpiece"].decode_bytes(np.array([40]))


def test_word_starts_group_tokens_into_words(by_kind: dict[str, Tokenizer]) -> None:
    def words(kind: str, text: str) -> list[str]:
        tokenizer, found = by_kind[kind], []
        for token in tokenizer.encode(text):
            if tokenizer.starts_word[token] or not found:
                found.append([])
            found[-1].append(token)
        return [tokenizer.decode(ids) for ids in found]

    for kind in ("bpe", "unigram", "bytes", "characters"):
        assert words(kind, "Zwölf unlikeliest hands, 1234567") == ["Zwölf", " unlikeliest", " hands", ",", " 1234567"]
        assert words(kind, "模型 a\nzzyzx") == ["模", "型", " a", "\nzzyzx"]
    assert len(words("wordpiece", "unlikeliest hands, 99")) == 4
    assert by_kind["wordpiece"].starts_word[:38].all()


def test_saved_is_loaded_byte_for_byte(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    for path in (tmp_path, tmp_path / TOKENIZER_FILE):
        loaded = Tokenizer.load(path)
        assert loaded.hash == tokenizer.hash
        assert loaded.encode("<|bos|> text") == tokenizer.encode("<|bos|> text")
    Tokenizer.load(tmp_path).save(tmp_path / "again")
    assert (tmp_path / "again" / TOKENIZER_FILE).read_bytes() == (tmp_path / TOKENIZER_FILE).read_bytes()


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(HallmarkError, match=r"there is no tokenizer\n  next: dvc repro tokenizer"):
        Tokenizer.load(tmp_path / "none")


def test_a_torn_tokenizer_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    path = tmp_path / TOKENIZER_FILE
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(HallmarkError, match=f"{TOKENIZER_FILE}: this is not a whole tokenizer"):
        Tokenizer.load(tmp_path)


def description(tokenizer: Tokenizer) -> dict[str, Any]:
    return json.loads(tokenizer._content)


def test_one_of_our_own_that_was_changed_is_refused_with_all_reasons(tokenizer: Tokenizer) -> None:
    changed = description(tokenizer)
    changed["added_tokens"] = []
    vocabulary = changed["model"]["vocab"]
    vocabulary["▁word"] = vocabulary.pop("!")
    vocabulary["gap"] = 1000
    with pytest.raises(HallmarkError) as refusal:
        Tokenizer(json.dumps(changed).encode())
    for reason in (
        "4 problems",
        "are none, not the 37 from <|pad|> to <|span-31|>",
        "without a gap",
        "1 of the 256",
        "hold ['▁']",
    ):
        assert reason in str(refusal.value)


def test_one_of_our_own_of_an_earlier_version_is_refused(tokenizer: Tokenizer) -> None:
    changed = description(tokenizer)
    changed["added_tokens"] = changed["added_tokens"][:2]
    with pytest.raises(HallmarkError, match=r"its special tokens are 2, <\|pad\|> first, not the 37(.|\n)*dvc repro"):
        Tokenizer(json.dumps(changed).encode())


@pytest.mark.parametrize("kind", KINDS)
def test_its_reading_of_text_cannot_be_changed(by_kind: dict[str, Tokenizer], kind: str) -> None:
    """Pieces and losslessness hold for the ways of parting text that we learn with, no others."""
    changed = description(by_kind[kind])
    changed["pre_tokenizer"] = {"type": "WhitespaceSplit"}
    with pytest.raises(HallmarkError, match="it does not part text as we do"):
        Tokenizer(json.dumps(changed).encode())


def test_a_missing_role_is_named(by_kind: dict[str, Tokenizer]) -> None:
    with pytest.raises(HallmarkError, match=r"has no unk token \(<\|unk\|>, \[UNK\], <unk>\)\n  next: choose another"):
        by_kind["bpe"].require("unk")
    with pytest.raises(HallmarkError, match=r"has 32 sentinels .*, not 33"):
        by_kind["bpe"].require_sentinels(33)
    with pytest.raises(HallmarkError, match="no role 'end'; allowed: pad, bos, eos, sep, mask, unk"):
        by_kind["bpe"].require("end")
    assert by_kind["wordpiece"].require("unk") == len(SPECIAL_TOKENS)
