"""BLEU, chrF and ROUGE against sacrebleu and rouge-score, of whole corpora, of resamples and of odd texts."""

import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from pipeline.evaluation.resampling import resampled_figures
from pipeline.tasks.text_metrics import FIGURES, count_texts, longest_common, signatures, text_figures

WORDS = ("a", "dog", "Dog", "runs", "fast,", "(on)", "the", "ice.", "über", "12", "3.5", "snow-man", '"Hi"', "")
TEXT = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)
PAIRS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=6)


def figures_of(truth: Sequence[str], written: Sequence[str]) -> dict[str, float]:
    return {name: float(value) for name, value in text_figures(count_texts(truth, written).sum(axis=0)).items()}


@settings(max_examples=150, deadline=None)
@given(PAIRS)
@example([("", "")])
@example([("a dog runs", ""), ("", "a dog")])
def test_bleu_and_chrf_are_sacrebleus(pairs: list[tuple[str, str]]) -> None:
    truth, written = ([pair[side] for pair in pairs] for side in (0, 1))
    found = figures_of(truth, written)
    assert found["bleu"] == pytest.approx(BLEU(force=True).corpus_score(written, [truth]).score, abs=1e-9)
    assert found["chrf"] == pytest.approx(CHRF().corpus_score(written, [truth]).score, abs=1e-9)
    assert set(found) == set(FIGURES)


@settings(max_examples=150, deadline=None)
@given(PAIRS)
def test_rouge_is_rouge_scores_where_its_letters_are(pairs: list[tuple[str, str]]) -> None:
    pairs = [(truth.replace("ü", "u"), found.replace("ü", "u")) for truth, found in pairs]  # it knows a-z alone
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    scores = [scorer.score(*pair) for pair in pairs]
    found = figures_of([pair[0] for pair in pairs], [pair[1] for pair in pairs])
    for ours, theirs in (("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")):
        mean = np.mean([score[theirs].fmeasure for score in scores])
        assert found[ours] == pytest.approx(100 * float(mean), abs=1e-9)


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), max_size=12))
def test_the_longest_common_subsequence_is_that_of_the_table(first: list[str], second: list[str]) -> None:
    table = np.zeros((len(first) + 1, len(second) + 1), dtype=int)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
    assert longest_common(first, second) == table[-1, -1]


def test_a_resample_is_sacrebleu_on_the_drawn_texts() -> None:
    generator = random.Random(1)
    truth, written = ([" ".join(generator.choices(WORDS, k=7)) for _ in range(8)] for _ in range(2))
    found = resampled_figures(count_texts(truth, written), text_figures, samples=20, seed=5)
    drawn = np.random.default_rng(5).multinomial(8, np.full(8, 1 / 8), size=20)
    for sample, times in enumerate(drawn):
        texts, writings = (
            [text for text, n in zip(side, times, strict=True) for _ in range(n)] for side in (truth, written)
        )
        assert found["bleu"][1 + sample] == pytest.approx(
            BLEU(force=True).corpus_score(writings, [texts]).score, abs=1e-9
        )
        assert found["chrf"][1 + sample] == pytest.approx(CHRF().corpus_score(writings, [texts]).score, abs=1e-9)


def test_scripts_without_spaces_are_counted_by_character() -> None:
    truth, written = ["我在北京工作，他也在北京。"], ["我在上海工作，他也在北京。"]
    found = figures_of(truth, written)
    assert found["bleu"] == pytest.approx(BLEU(tokenize="zh").corpus_score(written, [truth]).score, abs=1e-9)
    assert 50 < found["rouge_1"] < 100
    assert "tok:zh" in signatures(truth)["bleu"]
    assert "nrefs:1|" in signatures(["a"])["bleu"]
    assert "tok:13a" in signatures(["a"])["bleu"]
    assert "nc:6" in signatures(["a"])["chrf"]
