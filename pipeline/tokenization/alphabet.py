"""Bytes written as characters, and which characters begin a word."""

import unicodedata

# Scripts that put no spaces between words: there each character counts as a word, as in BERT's whole-word masking.
UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x31FF),  # radicals, kana, bopomofo
    (0x31F0, 0x4DBF),  # kana, CJK extension A
    (0x4E00, 0x9FFF),  # CJK
    (0xF900, 0xFAFF),  # CJK compatibility
    (0x20000, 0x3FFFF),  # CJK extensions
)


def byte_characters() -> dict[str, int]:
    """The character by which each byte is written inside tokens (GPT-2's table): printable ones are themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


def character_names(characters: list[str]) -> list[str]:
    """How the bytes of each text are written inside tokens."""
    table = {byte: character for character, byte in byte_characters().items()}
    return ["".join(table[byte] for byte in text.encode()) for text in characters]


def begins_word(content: bytes) -> bool:
    """Whether a token begins a new word: its first character is a space, a sign, or of a script without spaces.

    Letters, digits and marks go on with the word before them. So `the`, ` whole` and `-word` each are a word with what
    follows them, and a word right behind a line end belongs to that line end. A byte inside a character goes on.
    """
    first = content[:4]
    for size in range(1, len(first) + 1):
        if character := first[:size].decode(errors="ignore"):
            return _begins(character)
    # The first byte of a longer character: judged by one of those that it can begin (an emoji for F0).
    completed = (first + b"\x9f\x98\x80")[: 4 if first[:1] >= b"\xf0" else 3 if first[:1] >= b"\xe0" else 2]
    character = completed.decode(errors="ignore")
    return bool(character) and _begins(character)


def _begins(character: str) -> bool:
    point = ord(character)
    if any(first <= point <= last for first, last in UNSPACED):
        return not unicodedata.category(character).startswith("M")
    return unicodedata.category(character)[0] not in "LMN"
