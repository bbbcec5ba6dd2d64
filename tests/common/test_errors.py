"""Errors say what happened, where, and what to type next; problems come all at once."""

import pytest

from pipeline.common.errors import HallmarkError, Problems, allowed


def test_an_error_has_its_place_and_its_mend() -> None:
    error = HallmarkError("the column `label` is missing", where="reviews.csv", fix="name it in params.yaml")
    assert str(error) == "reviews.csv: the column `label` is missing\n  next: name it in params.yaml"
    assert str(HallmarkError("nothing was built")) == "nothing was built"


def test_problems_are_told_together() -> None:
    problems = Problems("params.yaml")
    problems.raise_if_any()
    problems.add("seed: wrong")
    problems.add(f"kind: unknown; {allowed(['a', 'b'])}")
    with pytest.raises(HallmarkError) as caught:
        problems.raise_if_any(fix="mend them")
    assert str(caught.value) == (
        "params.yaml: 2 problems\n  - seed: wrong\n  - kind: unknown; allowed: a, b\n  next: mend them"
    )
