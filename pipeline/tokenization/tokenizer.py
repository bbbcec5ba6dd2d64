"""The contract of a tokenizer: text to token ids and back, special tokens by their roles, identity by hash.

The encoding is done by the `tokenizers` library, of a tokenizer learned here (`training.py`) or of a published model.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from pipeline.common.errors import HallmarkError, Problems, allowed
from pipeline.common.files import atomic_path
from pipeline.tokenization.alphabet import begins_word, byte_characters
from pipeline.tokenization.pieces import AS_BYTES, BERT_WORDS, IN_WORDS, pieces, refuse_lone_surrogates
from pipeline.tokenization.roles import FAMILIAR, SPECIAL_TOKENS, UNK, find_roles, is_ours

TOKENIZER_FILE = "tokenizer.json"
CONTINUES = "##"  # WordPiece's mark of a token inside a word
KEEPS_ALL_TEXT = {"ByteLevel", "Digits", "Punctuation", "Split"}  # pre-tokenizers that only part the text


class Tokenizer:
    """A vocabulary and how text is cut by it.

    `encode` adds no special tokens. Names of special tokens inside a text are text like any other: only the pipeline
    itself can write `pad_id` or `bos_id`. (One exception: a foreign Unigram vocabulary, T5's for instance, holds its
    special names as pieces, so it reads `</s>` in a text as special, as it does everywhere.)

    A tokenizer whose ids 0 and 1 are `<|pad|>` and `<|bos|>` is of our own kinds, and is checked strictly. Any other is
    foreign: its ids may have gaps, its special tokens lie anywhere and are found by familiar names (`roles.py`).

    Args:
        content: the bytes of a `tokenizer.json`.
        where: the file they come from, for messages.

    Attributes:
        vocab_size: the largest id + 1.
        pad_id, bos_id: ids; a foreign tokenizer without them has others in their place, see `find_roles`.
        eos_id, sep_id, mask_id, unk_id: ids, None where there is no such token.
        sentinel_ids: the ids of the gaps of span corruption, in order; empty where there are none.

    Raises:
        HallmarkError: it is not a whole tokenizer, is of our kinds but not as we write them, or has no token that can
            begin a document.
    """

    def __init__(self, content: bytes, where: str = TOKENIZER_FILE) -> None:
        self._content = content
        self._where = where
        try:
            self._inner = tokenizers.Tokenizer.from_str(content.decode("utf-8"))
            self._description: dict[str, Any] = json.loads(content)
        except Exception as error:  # the library raises bare Exception for any content it cannot use
            raise HallmarkError(
                f"this is not a whole tokenizer ({error})",
                where=where,
                fix="dvc repro tokenizer, or replace the file",
            ) from error
        vocabulary = self._inner.get_vocab()
        self.vocab_size = max(vocabulary.values(), default=-1) + 1
        self._names: list[str | None] = [None] * self.vocab_size  # None: an id that no token has
        for name, place in vocabulary.items():
            self._names[place] = name
        self._added = self._inner.get_added_tokens_decoder()
        self._roles = find_roles(vocabulary)
        self._is_ours = is_ours(vocabulary)
        if self._is_ours:
            self._check()
        if self._roles.pad is None or self._roles.bos is None:
            names = {name for role in ("pad", "bos", "eos") for name in FAMILIAR[role]}
            raise HallmarkError(
                f"no token of it can begin a document or pad one; {allowed(sorted(names))}",
                where=where,
                fix="add one of these as a special token",
            )
        self.pad_id, self.bos_id = self._roles.pad, self._roles.bos
        self.eos_id, self.sep_id, self.mask_id = self._roles.eos, self._roles.sep, self._roles.mask
        self.unk_id, self.sentinel_ids = self._roles.unk, self._roles.sentinels
        self._inner.encode_special_tokens = True  # their names in a text are plain text
        self._inner.no_padding()  # some published files switch these on
        self._inner.no_truncation()

    def _check(self) -> None:
        problems = Problems(self._where)
        special = {place: token.content for place, token in self._added.items()}
        wanted = dict(enumerate((*SPECIAL_TOKENS, UNK) if UNK in self._names else SPECIAL_TOKENS))
        if special != wanted:
            found = f"{len(special)}, {special.get(0, '-')} first" if special else "none"
            last = wanted[len(wanted) - 1]
            problems.add(f"its special tokens are {found}, not the {len(wanted)} from {wanted[0]} to {last}")
        if None in self._names:
            problems.add("its ids are not 0, 1, 2, ... without a gap")
        if self._decoder == "ByteLevel":
            if lacking := byte_characters().keys() - set(self._names):
                problems.add(f"it does not know {len(lacking)} of the 256 bytes")
            if foreign := self._foreign_characters():
                problems.add(f"its tokens are not all bytes: they hold {sorted(foreign)[:10]}")
        elif self._decoder != "WordPiece":
            problems.add(f"its decoder is {self._decoder}; {allowed(['ByteLevel', 'WordPiece'])}")
        if repr(self._inner.pre_tokenizer) not in map(repr, (AS_BYTES, BERT_WORDS, IN_WORDS)):
            problems.add("it does not part text as we do: long texts could not be cut")
        problems.raise_if_any(fix="dvc repro tokenizer, or replace the file by one learned here")

    @property
    def _decoder(self) -> str | None:
        return (self._description.get("decoder") or {}).get("type")

    def _foreign_characters(self) -> set[str]:
        ordinary = (name for place, name in enumerate(self._names) if name and place not in self.special_ids)
        return set("".join(name for name in ordinary if name not in self._added_names)) - byte_characters().keys()

    @cached_property
    def _added_names(self) -> set[str]:
        return {token.content for token in self._added.values()}

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

    def require(self, role: str) -> int:
        """The id of `pad`, `bos`, `eos`, `sep`, `mask` or `unk`. Raises HallmarkError if the tokenizer lacks it."""
        if role not in FAMILIAR:
            raise HallmarkError(f"there is no role {role!r}; {allowed(FAMILIAR)}")
        found: int | None = getattr(self._roles, role)
        if found is None:
            raise self._lacks(f"no {role} token ({', '.join(FAMILIAR[role])})")
        return found

    def require_sentinels(self, count: int = 1) -> tuple[int, ...]:
        """The ids of the sentinels. Raises HallmarkError if there are fewer than `count`."""
        if len(self.sentinel_ids) < count:
            raise self._lacks(f"{len(self.sentinel_ids)} sentinels (<|span-0|> or <extra_id_0> ...), not {count}")
        return self.sentinel_ids

    def _lacks(self, what: str) -> HallmarkError:
        fix = "choose another objective in params.yaml, or a tokenizer learned here"
        return HallmarkError(f"this tokenizer has {what}", where=self._where, fix=fix)

    @property
    def separator_id(self) -> int:
        """What stands between two texts: `sep`, without it what ends or begins a document."""
        return next(place for place in (self.sep_id, self.eos_id, self.bos_id) if place is not None)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """The ids of all tokens that stand for no text: those with a role, and others that the file calls special."""
        return frozenset(self._roles.ids | {place for place, token in self._added.items() if token.special})

    @cached_property
    def special_names(self) -> tuple[str, ...]:
        """What special tokens are called, in the order of their ids. In a text they are plain text here, but not for
        programs that parse them.
        """
        return tuple(self.name(place) for place in sorted(self.special_ids))

    def name(self, place: int) -> str:
        """What the token of an id is called."""
        return str(self._names[place])

    @cached_property
    def is_special(self) -> np.ndarray:
        """bool (vocab_size,): special tokens, and ids that no token has. The others are ordinary."""
        return np.array([name is None or place in self.special_ids for place, name in enumerate(self._names)])

    @cached_property
    def starts_word(self) -> np.ndarray:
        """bool (vocab_size,): whether a word begins with the token, for whole-word masking.

        WordPiece: every token without `##`. All others: tokens whose first character is a space (also SentencePiece's
        `▁`), a sign, or of a script without spaces, see `begins_word`. Special tokens stand for themselves.
        """
        if self._decoder == "WordPiece":
            begins = [name is None or not name.startswith(CONTINUES) for name in self._names]
        else:
            begins = [begins_word(content) for content in self._contents()]
        return np.array(begins) | self.is_special

    @cached_property
    def is_byte_level(self) -> bool:
        """Whether each token stands for certain bytes, written in GPT-2's alphabet."""
        return self._decoder == "ByteLevel" and not self._foreign_characters()

    @cached_property
    def is_lossless(self) -> bool:
        """Whether `decode(encode(text)) == text` for any text, and `token_bytes` sum to the text's bytes.

        True for all our own kinds but wordpiece. Of foreign ones, for byte-level ones that know all bytes and change
        nothing before: GPT-2 and RoBERTa, but not Qwen, which composes characters (NFC) first.
        """
        knows_all = byte_characters().keys() <= set(self._names)
        strips = any((token.lstrip or token.rstrip) and not token.special for token in self._added.values())
        return (
            self.is_byte_level
            and knows_all
            and not strips
            and self._description.get("normalizer") is None
            and all(_keeps_all_text(part) for part in _flatten(self._description.get("pre_tokenizer")))
        )

    def pieces(self, text: str) -> Iterator[str]:
        """The text in pieces that have, one after another, the tokens of the whole. Of foreign ones, it is one."""
        return pieces(text) if self._is_ours else iter([text])

    def encode(self, text: str) -> list[int]:
        """The ids of `text`, without special ones. Raises HallmarkError for a lone surrogate."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, on all cores."""
        return [encoding.ids for encoding in self._encodings(self._inner.encode_batch_fast, texts)]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """The ids of each text, and where each token stands in it as (start, end), in characters.

        Tokens that are parts of one character share its place; white space before a word may belong to its token.
        """
        found = self._encodings(self._inner.encode_batch, texts)  # the fast one counts no offsets
        return [(encoding.ids, encoding.offsets) for encoding in found]

    @staticmethod
    def _encodings(encode: Callable[..., list[tokenizers.Encoding]], texts: Sequence[str]) -> list[tokenizers.Encoding]:
        """Raises HallmarkError for a lone surrogate."""
        try:
            return encode(texts, add_special_tokens=False)
        except TypeError:
            for place, text in enumerate(texts):
                refuse_lone_surrogates(text, place)
            raise

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; special tokens stand for none. Bytes that are no whole character become U+FFFD."""
        return self._inner.decode(list(ids), skip_special_tokens=True)

    def decode_bytes(self, ids: np.ndarray) -> np.ndarray:
        """The UTF-8 bytes of `ids`, uint8 (sum of their `token_bytes`,).

        Raises:
            HallmarkError: the tokenizer is not byte-level.
        """
        counts = self.token_bytes[ids]
        starts = self._byte_starts[ids]
        ends = np.cumsum(counts, dtype=np.int64)
        places = np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - counts), counts)
        return self._byte_table[places]

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """int32 (vocab_size,): how many UTF-8 bytes each token stands for; 0 for special ones.

        Raises:
            HallmarkError: the tokenizer is not byte-level.
        """
        if not self.is_byte_level:
            raise HallmarkError(
                "the tokens of this tokenizer do not stand for certain bytes: it changes the text that it reads",
                where=self._where,
                fix="set tokenizer.kind to one without loss: bpe, unigram, bytes or characters",
            )
        return np.array([len(content) for content in self._contents()], dtype=np.int32)

    def _contents(self) -> Iterator[bytes]:
        """What each id stands for: bytes if byte-level, else its name in UTF-8; nothing for special ones."""
        table = byte_characters() if self.is_byte_level else {}
        for place, name in enumerate(self._names):
            if name is None or place in self.special_ids:
                yield b""
            elif table and name not in self._added_names:
                yield bytes(table[character] for character in name)
            else:
                yield name.encode()

    @cached_property
    def _byte_table(self) -> np.ndarray:
        """uint8: the bytes of all tokens, one after another."""
        return np.frombuffer(b"".join(self._contents()), dtype=np.uint8)

    @cached_property
    def _byte_starts(self) -> np.ndarray:
        """int64 (vocab_size,): where each token begins in `_byte_table`."""
        return np.cumsum(self.token_bytes, dtype=np.int64) - self.token_bytes


def _flatten(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The parts of a pre-tokenizer, in order."""
    if part is None:
        return []
    inner = part.get("pretokenizers")
    return [part] if inner is None else [leaf for child in inner for leaf in _flatten(child)]


def _keeps_all_text(part: dict[str, Any]) -> bool:
    return part["type"] in KEEPS_ALL_TEXT and not part.get("add_prefix_space") and part.get("behavior") != "Removed"
