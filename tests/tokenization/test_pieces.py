from pipeline.tokenization.pieces import PIECE_CHARACTERS, pieces


def test_long_texts_are_cut_into_pieces_of_like_size() -> None:
    lines = "a line of thirty characters..\n" * 20_000
    sizes = [len(part) for part in pieces(lines)]
    assert sum(sizes) == len(lines)
    assert max(sizes) < PIECE_CHARACTERS + 31
    assert list(pieces("")) == [""]


def test_a_text_without_line_ends_stays_whole() -> None:
    text = "x" * 3 * PIECE_CHARACTERS
    assert list(pieces(text)) == [text]
