"""Text of several languages and one tokenizer for all tests of this room."""

import inspect
import logging
import textwrap

import pytest
from hypothesis import settings

from pipeline.tokenization.tokenizer import Tokenizer, train_bpe

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


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """A few hundred real paragraphs, then a line of each of several languages."""
    source = textwrap.dedent(inspect.getsource(logging))
    return [part for part in source.split("\n\n") if part.strip()] + MANY_LANGUAGES


@pytest.fixture(scope="session")
def tokenizer(texts: list[str]) -> Tokenizer:
    return train_bpe(texts, 400)
