"""Text of several languages, and one tokenizer of each kind for all tests of this room."""

import inspect
import logging
import textwrap

import pytest
from hypothesis import settings
from hypothesis import strategies as st

from pipeline.tokenization.roles import SPECIAL_TOKENS
from pipeline.tokenization.tokenizer import Tokenizer
from pipeline.tokenization.training import KINDS, train_tokenizer

settings.register_profile("steady", deadline=None, derandomize=True)  # the same examples, on a busy machine too
settings.load_profile("steady")

MANY_LANGUAGES = [
    "The quick brown fox jumps over the lazy dog, 1234567 times.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
    "语言模型从文本中学习。模型越大，文本越多。",
    "हिन्दी में लिखा हुआ पाठ",
    "النص العربي من اليمين إلى اليسار",
    "🎉👨‍👩‍👧‍👦 🇩🇪 e\u0301 \ufeff\u200b",
]
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SPECIAL_NAMES = (*SPECIAL_TOKENS[:6], "<|unk|>", "<s>", "</s>", "[MASK]", "<|", "|>", "pad", "##", "a##b")
SPACES = (" ", "  ", "\n", "\r\n", "\r", "\t", "\x00", "\x1c", "\x7f", "\x85", "\u2028", "\u00a0", "\ufffd", "\ufeff")
WORDS = ("the", "Zwölf", "Ä", "12345", "'s", "_", "ﬁ", "İ", "ß", "\nA", "e\u0301", "\u0301", "अन्")
UNSPACED = ("中文", "中", "\n中", "，", "🎉", "👨‍👩‍👧")
TRICKY_TEXT = st.lists(st.sampled_from((*SPECIAL_NAMES, *SPACES, *WORDS, *UNSPACED))).map("".join)
LOSSLESS = [kind for kind in KINDS if kind != "wordpiece"]


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """A few hundred real paragraphs, then a line of each of several languages."""
    source = textwrap.dedent(inspect.getsource(logging))
    return [part for part in source.split("\n\n") if part.strip()] + MANY_LANGUAGES


@pytest.fixture(scope="session")
def by_kind(texts: list[str]) -> dict[str, Tokenizer]:
    """A tokenizer of each kind, and an uncased wordpiece; each knows some of the many languages' characters."""
    learned = {kind: train_tokenizer([*texts, *MANY_LANGUAGES], kind, 400) for kind in KINDS}
    return learned | {"uncased": train_tokenizer([*texts, *MANY_LANGUAGES], "wordpiece", 400, lowercase=True)}


@pytest.fixture(scope="session")
def tokenizer(by_kind: dict[str, Tokenizer]) -> Tokenizer:
    return by_kind["bpe"]
