"""Splits come from hashes: stable, spread as asked, never empty."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.splitting import DOCUMENT_SPLITS, draw, draw_document_splits, draw_split

NAMES = [f"module_{number}" for number in range(4000)]


def test_a_draw_is_the_same_on_every_machine() -> None:
    assert draw(1, "numpy.linalg") == 0.282362043030832  # sha256("1:numpy.linalg"), first 8 bytes, over 2**64
    assert draw(2, "numpy.linalg") != draw(1, "numpy.linalg")


def test_splits_have_the_shares_asked_for() -> None:
    counts = Counter(draw_split(1, name, {"test": 0.2, "validation": 0.1}) for name in NAMES)
    assert 700 < counts["test"] < 900
    assert 330 < counts["validation"] < 470


def test_a_split_does_not_depend_on_the_other_rows() -> None:
    whole = dict(zip(NAMES, draw_document_splits(1, NAMES, 0.1), strict=True))
    part = dict(zip(NAMES[:500], draw_document_splits(1, NAMES[:500], 0.1), strict=True))
    assert part == {name: whole[name] for name in NAMES[:500]}


@given(
    st.lists(st.text(), min_size=2, max_size=6).filter(lambda names: len(set(names)) > 1),
    st.floats(0, 1),
    st.integers(0, 9),
)
def test_two_documents_or_more_fill_both_splits(names: list[str], share: float, seed: int) -> None:
    splits = draw_document_splits(seed, names, share)
    assert set(splits) == set(DOCUMENT_SPLITS)
    assert len({(name, split) for name, split in zip(names, splits, strict=True)}) == len(set(names))
