import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from pipeline.tokenization.alphabet import begins_word, byte_characters, character_names


def test_byte_characters_are_all_bytes_once() -> None:
    assert sorted(byte_characters().values()) == list(range(256))


@given(st.characters(exclude_categories=["Cs"]))
def test_names_are_those_of_the_byte_level_pre_tokenizer(character: str) -> None:
    parts = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(character)
    assert character_names([character]) == [parts[0][0]]


@pytest.mark.parametrize("token", [" the", "\n", "\t", ".", "(x", "_", "中", "の", "ไ", "🎉", "▁the", " ", "—"])
def test_spaces_signs_and_unspaced_scripts_begin_words(token: str) -> None:
    assert begins_word(token.encode())


@pytest.mark.parametrize("token", ["the", "The", "9", "é", "е", "\u0301s", "ह", "안", "\u0e31"])
def test_letters_digits_and_marks_go_on_with_a_word(token: str) -> None:
    assert not begins_word(token.encode())


@given(st.characters(exclude_categories=["Cs"]), st.binary(max_size=5))
def test_only_the_first_character_counts(character: str, rest: bytes) -> None:
    assert begins_word(character.encode() + rest) == begins_word(character.encode())


def test_part_of_a_character_is_judged_by_its_first_bytes() -> None:
    assert begins_word("中".encode()[:1])
    assert begins_word("中".encode()[:2])
    assert begins_word("🎉".encode()[:1])
    assert not begins_word("é".encode()[:1])
    assert not begins_word("中".encode()[1:])
    assert not begins_word(b"")
