import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common.errors import HallmarkError
from pipeline.tokenization import tokenizer as tokenizer_module
from pipeline.tokenization.tokenizer import (
    BOS,
    PAD,
    PIECE_CHARACTERS,
    SMALLEST_VOCABULARY,
    TOKENIZER_FILE,
    Tokenizer,
    byte_characters,
    pieces,
    train_bpe,
)

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
TRICKY_PARTS = st.sampled_from(
    [
        PAD,
        BOS,
        "<|",
        "|>",
        "pad",
        " ",
        "\n",
        "\r\n",
        "\t",
        "\x00",
        "中文",
        "🎉",
        "👨‍👩‍👧",
        "e\u0301",
        "अन्",
        "12345",
        "\u00a0",
        "'s",
    ]
)


@given(ANY_TEXT)
def test_any_text_comes_back_exactly(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode_bytes(np.array(ids, dtype=np.int64)).tobytes() == text.encode()
    assert tokenizer.token_bytes[ids].sum() == len(text.encode())


@given(st.lists(TRICKY_PARTS).map("".join))
def test_names_of_special_tokens_are_plain_text(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not {tokenizer.pad_id, tokenizer.bos_id} & set(ids)


def test_names_of_special_tokens_are_never_learned() -> None:
    learned = train_bpe([f"{PAD} {BOS} {PAD}{BOS}"] * 100, 400)
    assert learned.decode(learned.encode(PAD)) == PAD
    assert not {learned.pad_id, learned.bos_id} & set(learned.encode(f"{PAD}{BOS} {PAD}"))


@given(st.lists(ANY_TEXT, max_size=5))
def test_a_batch_is_its_texts_one_by_one(tokenizer: Tokenizer, batch: list[str]) -> None:
    assert tokenizer.encode_batch(batch) == [tokenizer.encode(text) for text in batch]


@given(
    st.lists(TRICKY_PARTS | st.sampled_from(["\n", "\n中", "\na", "\x85", "\u2028", "\x1c", "  ", "\r"])).map("".join)
)
def test_pieces_have_the_tokens_of_the_whole(tokenizer: Tokenizer, text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer_module, "PIECE_CHARACTERS", 3)
        parts = list(pieces(text))
    assert "".join(parts) == text
    assert [token for ids in tokenizer.encode_batch(parts) for token in ids] == tokenizer.encode(text)


def test_long_texts_are_cut_into_pieces_of_like_size() -> None:
    lines = "a line of thirty characters..\n" * 20_000
    sizes = [len(part) for part in pieces(lines)]
    assert sum(sizes) == len(lines)
    assert max(sizes) < PIECE_CHARACTERS + 31
    assert list(pieces("")) == [""]


@given(st.lists(st.integers(0, 399)))
def test_decoded_bytes_are_those_of_each_token(tokenizer: Tokenizer, ids: list[int]) -> None:
    one_by_one = b"".join(tokenizer.decode_bytes(np.array([token])).tobytes() for token in ids)
    assert tokenizer.decode_bytes(np.array(ids, dtype=np.int64)).tobytes() == one_by_one
    assert tokenizer.decode(ids) == one_by_one.decode(errors="replace")


def test_special_tokens_stand_for_no_text(tokenizer: Tokenizer) -> None:
    assert (tokenizer.pad_id, tokenizer.bos_id) == (0, 1)
    assert tokenizer.token_bytes[:2].tolist() == [0, 0]
    assert tokenizer.token_bytes[2:].min() == 1
    assert tokenizer.decode([tokenizer.bos_id, *tokenizer.encode("text"), tokenizer.pad_id]) == "text"


def test_byte_characters_are_all_bytes_once() -> None:
    assert sorted(byte_characters().values()) == list(range(256))


@pytest.mark.parametrize("text", ["a\ud800", "\udc80"])
def test_lone_surrogates_are_refused(tokenizer: Tokenizer, text: str) -> None:
    with pytest.raises(HallmarkError, match=r"text 1: .* UTF-8 cannot hold"):
        tokenizer.encode_batch(["fine", text])
    with pytest.raises(HallmarkError, match=r"text 1: .* UTF-8 cannot hold"):
        train_bpe(["fine", text], 300)


def test_too_little_text_gives_a_smaller_vocabulary() -> None:
    assert train_bpe(["abab abab"], 5000).vocab_size < 270
    assert train_bpe([], 5000).vocab_size == SMALLEST_VOCABULARY


def test_too_small_a_vocabulary_is_refused() -> None:
    with pytest.raises(HallmarkError, match=r"vocab_size: a vocabulary of 100 is too small .*\n.*258 or more"):
        train_bpe(["text"], 100)


def test_saved_is_loaded_byte_for_byte(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    for path in (tmp_path, tmp_path / TOKENIZER_FILE):
        loaded = Tokenizer.load(path)
        assert loaded.hash == tokenizer.hash
        assert loaded.encode("<|bos|> text") == tokenizer.encode("<|bos|> text")
    Tokenizer.load(tmp_path).save(tmp_path / "again")
    assert (tmp_path / "again" / TOKENIZER_FILE).read_bytes() == (tmp_path / TOKENIZER_FILE).read_bytes()


LEARN = """
import json, sys
from pipeline.tokenization.tokenizer import train_bpe
print(train_bpe(json.load(sys.stdin), 600).hash)
"""


@pytest.mark.parametrize("threads", ["1", "2"])
def test_learning_gives_the_same_bytes_in_every_process(texts: list[str], threads: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LEARN],
        input=json.dumps(texts),
        env={"RAYON_NUM_THREADS": threads, "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == train_bpe(texts, 600).hash


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(HallmarkError, match=r"there is no tokenizer\n  next: dvc repro tokenizer"):
        Tokenizer.load(tmp_path / "none")


def test_a_torn_tokenizer_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    path = tmp_path / TOKENIZER_FILE
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(HallmarkError, match=f"{TOKENIZER_FILE}: this is not a whole tokenizer"):
        Tokenizer.load(tmp_path)


def test_a_foreign_tokenizer_is_refused_with_all_reasons(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    content = json.loads((tmp_path / TOKENIZER_FILE).read_text(encoding="utf-8"))
    content["added_tokens"] = []
    vocabulary = content["model"]["vocab"]
    vocabulary["▁word"] = vocabulary.pop("!")
    with pytest.raises(HallmarkError) as refusal:
        Tokenizer(json.dumps(content).encode())
    for reason in ("3 problems", "special tokens are none", "does not know 1 of the 256 bytes", "hold ['▁']"):
        assert reason in str(refusal.value)
