"""Learning a tokenizer from text. The same texts always give the same bytes, on any number of threads.

bpe         byte-pair encoding (Sennrich et al. 2016, arXiv:1508.07909) over bytes (Radford et al. 2019)
unigram     the most probable pieces (Kudo 2018, arXiv:1804.10959), over bytes
bytes       the 256 bytes
characters  one token per character that occurs twice or more, most frequent first; others as their bytes
wordpiece   BERT's normalisation and words, tokens inside a word with `##` (Devlin et al. 2019); other characters than
            the frequent ones are unknown

All but wordpiece give back any text exactly. Wordpiece gives back its words, normalised, with one space between them.
"""

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from pipeline.common.errors import HallmarkError, allowed
from pipeline.tokenization.alphabet import byte_characters, character_names
from pipeline.tokenization.pieces import AS_BYTES, BERT_WORDS, IN_WORDS, pieces, refuse_lone_surrogates
from pipeline.tokenization.roles import SPECIAL_TOKENS, UNK
from pipeline.tokenization.tokenizer import CONTINUES, Tokenizer
from pipeline.tokenization.unigram import learn_pieces

SMALLEST_VOCABULARY = len(SPECIAL_TOKENS) + 256
NEVER = -1e6  # the score of a special token as a Unigram piece: any other reading of its name is more probable
UNIGRAM_BYTES = 1 << 21  # of distinct words; more would only cost time
ENCODED_AT_ONCE = 1024  # pieces of text


def train_tokenizer(texts: Iterable[str], kind: str, vocab_size: int, lowercase: bool = False) -> Tokenizer:
    """Learn a vocabulary of at most `vocab_size` tokens, the special ones (and the 256 bytes) included.

    A text with too few repeated words or characters gives a smaller vocabulary, see `Tokenizer.vocab_size`; `bytes`
    always has `SMALLEST_VOCABULARY`.

    Args:
        texts: the texts to learn from, read once.
        kind: bpe, unigram, bytes, characters or wordpiece.
        vocab_size: `SMALLEST_VOCABULARY` or more.
        lowercase: read text in lower case and without accents, as BERT's uncased models do (wordpiece only).

    Raises:
        HallmarkError: an unknown kind, `vocab_size` is too small, `lowercase` for another kind, or a text holds a lone
            surrogate.
    """
    if kind not in KINDS:
        raise HallmarkError(f"there is no kind {kind!r}; {allowed(KINDS)}", where="params.yaml: tokenizer.kind")
    if vocab_size < SMALLEST_VOCABULARY:
        raise HallmarkError(
            f"a vocabulary of {vocab_size} is too small for 256 bytes and {len(SPECIAL_TOKENS)} special tokens",
            where="params.yaml: tokenizer.vocab_size",
            fix=f"set it to {SMALLEST_VOCABULARY} or more",
        )
    if lowercase and kind != "wordpiece":
        raise HallmarkError(
            f"kind {kind} gives back text exactly, so it cannot put it in lower case",
            where="params.yaml: tokenizer.lowercase",
            fix="set tokenizer.lowercase to false, or tokenizer.kind to wordpiece",
        )
    options = {"lowercase": lowercase} if kind == "wordpiece" else {}
    inner = KINDS[kind](_checked_pieces(texts), vocab_size, **options)
    return Tokenizer((inner.to_str(pretty=True) + "\n").encode())


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """`train_tokenizer` of kind bpe."""
    return train_tokenizer(texts, "bpe", vocab_size)


def _checked_pieces(texts: Iterable[str]) -> Iterator[str]:
    for place, text in enumerate(texts):
        refuse_lone_surrogates(text, place)
        yield from pieces(text)


def _bpe(texts: Iterator[str], vocab_size: int) -> tokenizers.Tokenizer:
    inner = _byte_level(models.BPE(), in_words=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    inner.train_from_iterator(texts, trainer)
    return inner


def _bytes(texts: Iterator[str], _vocab_size: int) -> tokenizers.Tokenizer:
    for _ in texts:  # all of them are checked
        pass
    vocabulary = {name: place for place, name in enumerate((*SPECIAL_TOKENS, *sorted(byte_characters())))}
    return _with_specials(_byte_level(models.BPE(vocabulary, []), in_words=False))


def _characters(texts: Iterator[str], vocab_size: int) -> tokenizers.Tokenizer:
    counted = Counter[str]()
    for text in texts:
        counted.update(text)
    repeated = [character for character, count in counted.items() if count >= 2 and ord(character) > 127]
    frequent = sorted(repeated, key=lambda character: (-counted[character], character))
    # The best reading has the highest sum: a character itself, 0, before its bytes, each -1.
    scored = [(name, -1.0) for name in sorted(byte_characters())] + [
        (name, 0.0) for name in character_names(frequent[: vocab_size - SMALLEST_VOCABULARY])
    ]
    return _with_specials(_byte_level(_unigram_model(scored), in_words=False))


def _unigram(texts: Iterator[str], vocab_size: int) -> tokenizers.Tokenizer:
    words, counts = _count_words(list(texts))
    table = {byte: character for character, byte in byte_characters().items()}
    learned = learn_pieces(words, counts, vocab_size - len(SPECIAL_TOKENS))
    scored = [("".join(table[byte] for byte in piece), score) for piece, score in learned]
    return _with_specials(_byte_level(_unigram_model(scored), in_words=True))


def _wordpiece(texts: Iterator[str], vocab_size: int, lowercase: bool) -> tokenizers.Tokenizer:
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    special = [*SPECIAL_TOKENS, UNK]
    kept = list(texts)
    alphabet = _wordpiece_alphabet(kept, normalizer, (vocab_size - len(special)) // 2)
    # The trainer numbers `##` letters as it meets them, in a random order, and breaks ties by number. Given as special
    # tokens, they are numbered first.
    letters = [*alphabet, *(CONTINUES + character for character in alphabet if _continues(character, normalizer))]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=[*special, *letters],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
    )
    learner = _bert(models.WordPiece(unk_token=UNK), normalizer)
    learner.train_from_iterator(kept, trainer)
    inner = _bert(models.WordPiece(learner.get_vocab(), unk_token=UNK), normalizer)
    inner.decoder = decoders.WordPiece(CONTINUES, cleanup=False)
    inner.add_special_tokens(special)
    return inner


KINDS: dict[str, Any] = {
    "bpe": _bpe,
    "wordpiece": _wordpiece,
    "unigram": _unigram,
    "bytes": _bytes,
    "characters": _characters,
}


def _byte_level(model: Any, in_words: bool) -> tokenizers.Tokenizer:
    """A tokenizer whose model sees bytes as characters, word by word or a whole text at once."""
    inner = tokenizers.Tokenizer(model)
    inner.pre_tokenizer = IN_WORDS if in_words else AS_BYTES
    inner.decoder = decoders.ByteLevel()
    return inner


def _unigram_model(scored: Sequence[tuple[str, float]]) -> models.Unigram:
    return models.Unigram([*((name, NEVER) for name in SPECIAL_TOKENS), *scored], unk_id=None, byte_fallback=False)


def _with_specials(inner: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    inner.add_special_tokens(list(SPECIAL_TOKENS))
    return inner


def _count_words(texts: Sequence[str]) -> tuple[list[bytes], np.ndarray]:
    """The distinct words, at most `UNIGRAM_BYTES` of them, most frequent first; int64 (words,) of their counts.

    Equally frequent words come in the order of their checksums, so that no letter is preferred.
    """
    inner = _byte_level(models.WordLevel(unk_token=""), in_words=True)
    inner.train_from_iterator(texts, trainers.WordLevelTrainer(vocab_size=1 << 31, show_progress=False))
    names = [name for name, _ in sorted(inner.get_vocab().items(), key=lambda named: named[1])]
    counts = np.zeros(len(names), dtype=np.int64)
    for start in range(0, len(texts), ENCODED_AT_ONCE):
        encodings = inner.encode_batch_fast(texts[start : start + ENCODED_AT_ONCE])
        ids = np.concatenate([np.array(encoding.ids, dtype=np.int64) for encoding in encodings])
        counts += np.bincount(ids, minlength=len(names))
    to_bytes = str.maketrans({character: chr(byte) for character, byte in byte_characters().items()})
    words = [name.translate(to_bytes).encode("latin-1") for name in names]
    order = sorted(range(len(words)), key=lambda place: (-counts[place], zlib.crc32(words[place]), words[place]))
    lengths = np.array([len(words[place]) for place in order], dtype=np.int64)
    order = order[: int(np.searchsorted(np.cumsum(lengths), UNIGRAM_BYTES, side="right"))]
    return [words[place] for place in order], counts[order]


def _bert(model: models.WordPiece, normalizer: normalizers.BertNormalizer) -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(model)
    inner.normalizer = normalizer
    inner.pre_tokenizer = BERT_WORDS
    return inner


def _wordpiece_alphabet(texts: Iterable[str], normalizer: normalizers.BertNormalizer, most: int) -> list[str]:
    """The characters to know, sorted: the most frequent whose tokens are at most `most`."""
    counted = Counter[str]()
    for text in texts:
        counted.update(normalizer.normalize_str(text))
    frequent = sorted(
        (character for character in counted if not character.isspace()),
        key=lambda character: (-counted[character], character),
    )
    tokens = np.cumsum([1 + _continues(character, normalizer) for character in frequent], dtype=np.int64)
    return sorted(frequent[: int(np.searchsorted(tokens, most, side="right"))])


def _continues(character: str, normalizer: normalizers.BertNormalizer) -> bool:
    """Whether a character can stand inside a word: signs and Chinese characters are words of their own."""
    return len(BERT_WORDS.pre_tokenize_str(normalizer.normalize_str(f"a{character}"))) == 1
