"""No text gives its library away by name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.masking import MASK, mask_names, name_pattern

NAMES = ["numpy", "np", "scipy", "sp", "scikit-learn", "scikit learn", "sklearn", "scikit", "torch", "pytorch", "pd"]
PIECES = [
    *NAMES,
    "NumPy",
    "NP",
    "Torch",
    "SP",
    "arse",
    "Array",
    "vision",
    "x",
    "_",
    ".",
    " ",
    "-",
    "2",
    "的",
    "😀",
    "\n",
]


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("import numpy as np", "import lib as lib"),
        ("NumPy and NUMPY", "lib and lib"),
        ("numpy.linalg.norm", "lib.linalg.norm"),
        ("x.to_numpy()", "x.to_lib()"),
        ("__torch_function__", "__lib_function__"),
        ("TorchDispatch", "libDispatch"),
        ("fromNumpy", "fromlib"),
        ("scikit-learn, scikit learn, sklearn", "lib, lib, lib"),
        ("scikit-learning", "lib-learning"),
        ("使用numpy的", "使用lib的"),
        ("torchvision SPARSE SPDX input PDF special", "torchvision SPARSE SPDX input PDF special"),
    ],
)
def test_names_are_found_as_words_and_in_identifiers(text: str, masked: str) -> None:
    assert mask_names(NAMES)(text) == masked


@given(st.lists(st.sampled_from(PIECES)).map("".join) | st.text())
def test_no_name_is_left(text: str) -> None:
    masked = mask_names(NAMES)(text)
    assert name_pattern(NAMES).search(masked) is None
    assert mask_names(NAMES)(masked) == masked


@given(st.text(alphabet=st.characters(exclude_categories=("Cs",))))
def test_a_text_without_a_name_is_left_as_it_is(text: str) -> None:
    if not any(name in text.lower() for name in NAMES):
        assert mask_names(NAMES)(text) == text


def test_the_mask_is_no_name() -> None:
    assert mask_names(NAMES)(MASK) == MASK
