"""Texts and pairs of texts as rows of token ids: [bos] text, or [bos] text [sep] pair."""

from collections.abc import Sequence

from pipeline.common.errors import HallmarkError
from pipeline.tasks.rows import Text
from pipeline.tokenization.tokenizer import Tokenizer

LEAST_PAIR = 4  # `bos`, a token, the separator, a token


def encode_rows(texts: Sequence[Text], tokenizer: Tokenizer, max_tokens: int) -> tuple[list[list[int]], int]:
    """The ids of each text or pair, cut to `max_tokens` in all; and how many were cut.

    Of a pair the longer text is cut first, until both are of one length; then both are (see `cut_pair`). No text has
    the separator among its own tokens (see `Tokenizer`), so that it tells where the second one begins.

    Raises:
        HallmarkError: `max_tokens` leaves no room for two texts.
    """
    if not texts or isinstance(texts[0], str):
        encoded = [[tokenizer.bos_id, *ids] for ids in tokenizer.encode_batch([str(text) for text in texts])]
        return [ids[:max_tokens] for ids in encoded], sum(len(ids) > max_tokens for ids in encoded)
    if max_tokens < LEAST_PAIR:
        raise HallmarkError(
            f"{max_tokens} tokens have no room for two texts",
            where="params.yaml: finetune.max_tokens",
            fix=f"set it to {LEAST_PAIR} or more",
        )
    room, rows, cut = max_tokens - 2, [], 0
    firsts, seconds = (tokenizer.encode_batch([pair[place] for pair in texts]) for place in (0, 1))
    for first, second in zip(firsts, seconds, strict=True):
        cut += len(first) + len(second) > room
        first_size, second_size = cut_pair(len(first), len(second), room)
        rows.append([tokenizer.bos_id, *first[:first_size], tokenizer.separator_id, *second[:second_size]])
    return rows, cut


def cut_pair(first: int, second: int, room: int) -> tuple[int, int]:
    """How many tokens stay of two texts of these lengths, `room` in all where they have more.

    The shorter one keeps up to half of the room, rounded down, and the longer one the rest; of equals the second
    counts as the longer. That is `longest_first` of the tokenizers library.
    """
    if first + second <= room:
        return first, second
    shorter = min(first, second, room // 2)
    return (room - shorter, shorter) if first > second else (shorter, room - shorter)
