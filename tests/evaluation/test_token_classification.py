"""Intervals over texts, against resampling one text at a time; the baseline; the worst spans on the page."""

import numpy as np
import pandas as pd
import pytest

from pipeline.common.spans import Span, spans_to_json
from pipeline.evaluation.intervals import interval
from pipeline.evaluation.report.span_page import span_pairs, worst_spans
from pipeline.evaluation.resampling import resampled_figures
from pipeline.evaluation.word_shapes import cut_words, predict_by_word_shapes, shape
from pipeline.tasks.span_metrics import span_figures


def test_resamples_are_those_of_drawing_whole_texts() -> None:
    generator = np.random.default_rng(3)
    counts = generator.integers(0, 4, (7, 3, 2))
    counts[:, 1:] += counts[:, :1]
    found = resampled_figures(counts, span_figures, samples=20, seed=5)
    draws = np.random.default_rng(5).multinomial(7, np.full(7, 1 / 7), size=20)
    for sample, drawn in enumerate(draws, start=1):
        chosen = counts[np.repeat(np.arange(7), drawn)]
        assert found["micro_f1"][sample] == pytest.approx(float(span_figures(chosen.sum(axis=0))["micro_f1"]))
    assert found["macro_f1"][0] == pytest.approx(float(span_figures(counts.sum(axis=0))["macro_f1"]))
    assert found["micro_f1"].shape == (21,)


def test_an_interval_is_of_the_resamples_and_its_value_of_all_texts() -> None:
    values = np.concatenate([[0.5], np.linspace(0, 1, 101)])
    assert interval(values, 0.9) == {"value": 0.5, "low": pytest.approx(0.05), "high": pytest.approx(0.95)}


def test_the_baseline_learns_words_and_shapes() -> None:
    texts = [f"we saw {name} today" for name in ("Anna", "Omar", "Lena", "Igor")] + ["we saw it today"] * 2
    spans = [[Span(7, 11, "person")]] * 4 + [[]] * 2
    found = predict_by_word_shapes(texts, spans, ["we saw Zoro today", "", "we saw it today"], ["person"])
    assert found == [[Span(7, 11, "person")], [], []]
    assert predict_by_word_shapes(texts, [[]] * 6, ["Anna"], ["person"]) == [[]]


def test_words_are_runs_signs_and_single_chinese_characters() -> None:
    text = "New-York2 北京 it's"
    words = cut_words(text)
    cut = [text[start:end] for start, end in zip(words.starts_V, words.ends_V, strict=True)]
    assert cut == ["New", "-", "York2", "北", "京", "it", "'", "s"]
    assert [shape(word) for word in ("Rome2026", "IBM", "e-mail")] == ["Xxd", "X", "x-x"]


def test_the_worst_spans_are_wrong_and_surest_first() -> None:
    predictions = pd.DataFrame(
        {
            "id": ["a", "b"],
            "spans": [spans_to_json([Span(0, 4, "x")]), spans_to_json([Span(0, 4, "y")])],
            "predicted": [spans_to_json([Span(0, 4, "x"), Span(8, 12, "x")]), spans_to_json([Span(0, 4, "x")])],
            "scores": [[0.99, 0.6], [0.9]],
        }
    )
    rows = pd.DataFrame({"id": ["a", "b"], "text": ["Rome and Oslo", "Lima is"]})
    found = worst_spans(predictions, rows)
    assert [(each["id"], each["label"], each["predicted"]) for each in found] == [
        ("b", "y 0-4", "x"),
        ("a", "(none)", "x"),
    ]
    assert found[0]["text"] == "[Lima] is"
    pairs = span_pairs(predictions)
    assert pairs.to_numpy().tolist() == [["x", "x"], ["(none)", "x"], ["y", "x"]]
