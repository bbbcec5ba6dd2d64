"""Byte-level byte-pair encoding: text to token ids and exactly back, in any language.

Byte-pair encoding: Sennrich et al. 2016, arXiv:1508.07909. Over bytes, as in GPT-2 (Radford et al. 2019), so that no
character is ever unknown. The learning and the encoding are done by the `tokenizers` library.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from pipeline.common.errors import HallmarkError, Problems
from pipeline.common.files import atomic_path

TOKENIZER_FILE = "tokenizer.json"
PAD, BOS = "<|pad|>", "<|bos|>"
SPECIAL_TOKENS = (PAD, BOS)  # their ids are their places here
SMALLEST_VOCABULARY = len(SPECIAL_TOKENS) + 256

# Merges do not cross these borders. GPT-4's pattern without its English contractions and with marks (\p{M}) counted
# as letters, so that Devanagari, Arabic or Thai words stay whole: words with the one sign or space before them,
# digits by threes, runs of signs, line ends, spaces.
WORD_PATTERN = (
    r"[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+"
    r"|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)
LINE_START = re.compile(r"\n(?=\w)")  # by the pattern above, words always part here
PIECE_CHARACTERS = 1 << 16


def pieces(text: str) -> Iterator[str]:
    """Cut a long text at line ends where tokens part anyway: the tokens of the pieces are those of the text.

    So one long document is encoded on all cores, in the memory of a few pieces.
    """
    start = 0
    while len(text) - start > PIECE_CHARACTERS and (border := LINE_START.search(text, start + PIECE_CHARACTERS)):
        yield text[start : border.end()]
        start = border.end()
    yield text[start:]


def byte_characters() -> dict[str, int]:
    """The character by which each byte is written inside tokens (GPT-2's table): printable ones are themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


class Tokenizer:
    """A vocabulary and how text is cut by it.

    `encode` adds no special tokens, and the names of special tokens inside a text are text like any other: only the
    pipeline itself can write `pad_id` or `bos_id`.

    Args:
        content: the bytes of a `tokenizer.json` with a byte-level alphabet and `SPECIAL_TOKENS` as its first ids.
        where: the file they come from, for messages.

    Raises:
        HallmarkError: it is not such a file.
    """

    pad_id, bos_id = range(len(SPECIAL_TOKENS))

    def __init__(self, content: bytes, where: str = TOKENIZER_FILE) -> None:
        self._content = content
        try:
            self._inner = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
        except Exception as error:  # the library raises bare Exception for any content it cannot use
            raise HallmarkError(
                f"this is not a whole tokenizer ({error})",
                where=where,
                fix="dvc repro tokenizer, or replace the file",
            ) from error
        vocabulary = self._inner.get_vocab()
        self.vocab_size = len(vocabulary)
        self._names = sorted(vocabulary, key=vocabulary.__getitem__)
        self._check(where)
        self._inner.encode_special_tokens = True  # their names in a text are plain text

    def _check(self, where: str) -> None:
        problems = Problems(where)
        special = {place: token.content for place, token in self._inner.get_added_tokens_decoder().items()}
        if special != dict(enumerate(SPECIAL_TOKENS)):
            problems.add(f"its special tokens are {special or 'none'}, not {dict(enumerate(SPECIAL_TOKENS))}")
        if [self._inner.token_to_id(name) for name in self._names] != list(range(self.vocab_size)):
            problems.add("its ids are not 0, 1, 2, ... without a gap")
        characters = byte_characters().keys()
        if lacking := characters - set(self._names):
            problems.add(f"it does not know {len(lacking)} of the 256 bytes")
        if foreign := set("".join(self._names)) - characters:
            problems.add(f"its tokens are not all bytes: they hold {sorted(foreign)[:10]}")
        problems.raise_if_any(fix="dvc repro tokenizer, or replace the file by one learned here")

    @classmethod
    def load(cls, path: Path | str) -> "Tokenizer":
        """Read a `tokenizer.json`, or the one in a folder. Raises HallmarkError if it is missing or torn."""
        path = Path(path)
        path = path / TOKENIZER_FILE if path.is_dir() else path
        try:
            return cls(path.read_bytes(), str(path))
        except FileNotFoundError:
            raise HallmarkError("there is no tokenizer", where=str(path), fix="dvc repro tokenizer") from None

    def save(self, folder: Path | str) -> None:
        """Write `tokenizer.json` into `folder`, byte for byte as it was read or learned."""
        with atomic_path(Path(folder) / TOKENIZER_FILE) as temporary:
            temporary.write_bytes(self._content)

    @cached_property
    def hash(self) -> str:
        """The sha256 of the bytes of `tokenizer.json`: the tokenizer's identity in checkpoints and shards."""
        return hashlib.sha256(self._content).hexdigest()

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without special ones. Raises HallmarkError for a lone surrogate."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, on all cores."""
        try:
            encodings = self._inner.encode_batch_fast(texts, add_special_tokens=False)
        except TypeError:
            for place, text in enumerate(texts):
                _refuse_lone_surrogates(text, place)
            raise
        return [encoding.ids for encoding in encodings]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; special tokens stand for none. Bytes that are no whole character become U+FFFD."""
        return self._inner.decode(list(ids), skip_special_tokens=True)

    def decode_bytes(self, ids: np.ndarray) -> np.ndarray:
        """The UTF-8 bytes of `ids`, uint8 (sum of their `token_bytes`,), without any loss."""
        counts = self.token_bytes[ids]
        starts = self._byte_starts[ids]
        ends = np.cumsum(counts, dtype=np.int64)
        places = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - counts), counts)
        return self._byte_table[places]

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """int32 (vocab_size,): how many UTF-8 bytes each token stands for; 0 for special ones."""
        counts = np.array([len(name) for name in self._names], dtype=np.int32)  # a byte is one character of the name
        counts[: len(SPECIAL_TOKENS)] = 0
        return counts

    @cached_property
    def _byte_table(self) -> np.ndarray:
        """uint8: the bytes of all tokens, one after another."""
        table = byte_characters()
        ordinary = self._names[len(SPECIAL_TOKENS) :]
        return np.frombuffer(bytes(table[character] for name in ordinary for character in name), dtype=np.uint8)

    @cached_property
    def _byte_starts(self) -> np.ndarray:
        """int64 (vocab_size,): where each token begins in `_byte_table`."""
        return np.cumsum(self.token_bytes, dtype=np.int64) - self.token_bytes


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn a vocabulary of at most `vocab_size` tokens, the special ones and the 256 bytes included.

    The same texts always give the same bytes. A text with too few repeated words for `vocab_size` tokens gives a
    smaller vocabulary: see `Tokenizer.vocab_size`.

    Raises:
        HallmarkError: `vocab_size` is too small, or a text holds a lone surrogate.
    """
    if vocab_size < SMALLEST_VOCABULARY:
        raise HallmarkError(
            f"a vocabulary of {vocab_size} is too small for 256 bytes and {len(SPECIAL_TOKENS)} special tokens",
            where="params.yaml: tokenizer.vocab_size",
            fix=f"set it to {SMALLEST_VOCABULARY} or more",
        )
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    inner.train_from_iterator(_checked_pieces(texts), trainer)
    return Tokenizer((inner.to_str(pretty=True) + "\n").encode())


def _checked_pieces(texts: Iterable[str]) -> Iterator[str]:
    for place, text in enumerate(texts):
        _refuse_lone_surrogates(text, place)
        yield from pieces(text)


def _refuse_lone_surrogates(text: str, place: int) -> None:
    """UTF-8 cannot say half of a UTF-16 pair: such a text was read with the wrong encoding."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise HallmarkError(
            f"character {error.start} is {text[error.start]!r}, half of a pair that UTF-8 cannot hold: {text[:40]!r}",
            where=f"text {place}",
            fix="read the text with its right encoding, or set the row aside",
        ) from error
