"""Where text parts into words whatever is learned, so that long texts can be cut there."""

import re
from collections.abc import Iterator

from tokenizers import Regex, pre_tokenizers

from pipeline.common.errors import HallmarkError

# Byte-level tokens do not cross these borders. GPT-4's pattern without its English contractions and with marks (\p{M})
# counted as letters, so that Devanagari, Arabic or Thai words stay whole: words with the one sign or space before them,
# digits by threes, runs of signs, line ends, spaces.
WORD_PATTERN = (
    r"[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+"
    r"|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)
# How our own kinds part a text: not at all, by the pattern above, by BERT's rule. Each part becomes tokens by itself.
AS_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
IN_WORDS = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(WORD_PATTERN), "isolated"), AS_BYTES])
BERT_WORDS = pre_tokenizers.BertPreTokenizer()

# A line end before a letter or digit: words part here by the pattern, and by BERT's rule, where all spaces part words.
# Where a text is not parted, each token is one character or byte.
LINE_START = re.compile(r"\n(?=\w)")
PIECE_CHARACTERS = 1 << 16


def pieces(text: str) -> Iterator[str]:
    """Cut a long text at line ends where tokens of our own kinds part anyway: the pieces have the tokens of the text.

    So one long document is encoded on all cores, in the memory of a few pieces.
    """
    start = 0
    while len(text) - start > PIECE_CHARACTERS and (border := LINE_START.search(text, start + PIECE_CHARACTERS)):
        yield text[start : border.end()]
        start = border.end()
    yield text[start:]


def refuse_lone_surrogates(text: str, place: int) -> None:
    """UTF-8 cannot say half of a UTF-16 pair: such a text was read with the wrong encoding. Raises HallmarkError."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise HallmarkError(
            f"character {error.start} is {text[error.start]!r}, half of a pair that UTF-8 cannot hold: {text[:40]!r}",
            where=f"text {place}",
            fix="read the text with its right encoding, or set the row aside",
        ) from error
