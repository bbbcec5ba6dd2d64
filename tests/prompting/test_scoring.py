"""Scores against one pass of the whole network for every prompt and answer."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.prompting import score_one_by_one
from pipeline.common.errors import HallmarkError
from pipeline.model.presets import PRESETS
from pipeline.prompting import scoring
from pipeline.prompting.scoring import Scorer
from tests.model.test_parts import OTHER_PARTS, preset_model, tiny_model

PROMPTS = [[1, 5, 6, 7], [1, 5, 6, 7, 8, 9, 2], [1, 5, 6], [1, 5, 6, 7, 30], [1]]
ANSWERS = [[3], [3, 4], [11], [12, 13, 14, 15], [3, 4, 5]]
DECODERS = [name for name, parts in PRESETS.items() if parts["family"] == "decoder"]
MODELS = {name: partial(preset_model, name) for name in DECODERS} | {
    name: partial(tiny_model, **parts) for name, parts in OTHER_PARTS.items()
}


@pytest.mark.parametrize("name", MODELS)
def test_scores_are_those_of_a_plain_loop(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, scorer = MODELS[name](), Scorer(MODELS[name]())
    expected = score_one_by_one(model, PROMPTS, ANSWERS)
    for rows in (32, 2, 1):  # one batch, or a beginning that is kept from batch to batch
        monkeypatch.setattr(scoring, "MOST_ROWS", rows)
        np.testing.assert_allclose(scorer.score(PROMPTS, ANSWERS), expected, rtol=1e-5, atol=1e-5)


TOKENS = st.integers(0, 39)


@settings(max_examples=40, deadline=None)
@given(
    begun=st.lists(st.lists(TOKENS, max_size=4), min_size=1, max_size=3),
    rest=st.lists(st.tuples(st.integers(0, 2), st.lists(TOKENS, min_size=1, max_size=4)), min_size=1, max_size=6),
    answers=st.lists(st.lists(TOKENS, min_size=1, max_size=4), min_size=1, max_size=3),
    rows=st.integers(1, 4),
)
def test_groups_of_any_beginnings_change_no_score(
    begun: list[list[int]], rest: list[tuple[int, list[int]]], answers: list[list[int]], rows: int
) -> None:
    model = tiny_model()
    groups = [number % len(begun) for number, _ in rest]
    prompts = [begun[group] + ids for group, (_, ids) in zip(groups, rest, strict=True)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "MOST_ROWS", rows)
        found = Scorer(model).score(prompts, answers, groups)
    np.testing.assert_allclose(found, score_one_by_one(model, prompts, answers), rtol=1e-5, atol=1e-5)


def test_what_prompts_begin_with_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, read = Scorer(tiny_model()), []
    decode = scorer.model.decode

    def counted(ids_BT: torch.Tensor, **others: object) -> torch.Tensor:
        read.append(ids_BT.numel())
        return decode(ids_BT, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(scorer.model, "decode", counted)
    prompts = [[1, 5, 6, 7, 8, 9, number] for number in range(10, 20)]
    scorer.score(prompts, [[3], [4, 5]])
    assert read == [6, 10, 10]  # the beginning; a token of each prompt; of each, the first of the longer answer


def test_memory_of_a_batch_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = Scorer(tiny_model())
    expected = scorer.score(PROMPTS, ANSWERS)
    monkeypatch.setattr(scoring, "CACHE_BYTES", 1)
    np.testing.assert_allclose(scorer.score(PROMPTS, ANSWERS), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("preset", ["bert", "t5"])
def test_only_a_decoder_is_prompted(preset: str) -> None:
    with pytest.raises(HallmarkError, match="only a decoder can be prompted, and this model is an encoder"):
        Scorer(preset_model(preset))
