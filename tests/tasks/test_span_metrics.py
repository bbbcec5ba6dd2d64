"""The figures of spans: by their definition one span at a time, and those of seqeval where it is installed."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.common.spans import Span
from pipeline.tasks.span_metrics import count_spans, span_figures, span_metrics

LABELS = ["loc", "org", "per"]
TAGS = ["O", *(f"{kind}-{label}" for label in LABELS for kind in "BI")]
SENTENCES = st.lists(
    st.lists(st.tuples(st.sampled_from(TAGS), st.sampled_from(TAGS)), max_size=8), min_size=1, max_size=5
)


def mend(tags: Sequence[str]) -> list[str]:
    """The tags, each I that goes on with nothing made a B: only valid sequences come to be compared."""
    mended: list[str] = []
    for tag in tags:
        before = mended[-1] if mended else "O"
        mended.append(tag.replace("I-", "B-") if tag[0] == "I" and before[1:] != tag[1:] else tag)
    return mended


def spans_of(tags: Sequence[str]) -> list[Span]:
    """One character for each word."""
    found: list[Span] = []
    for place, tag in enumerate(tags):
        if tag[0] == "B":
            found.append(Span(place, place + 1, tag[2:]))
        elif tag[0] == "I":
            found[-1] = found[-1]._replace(end=place + 1)
    return found


def quotient(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


@settings(deadline=None)
@given(SENTENCES)
def test_figures_are_those_of_their_definition(sentences: list[list[tuple[str, str]]]) -> None:
    truth = [spans_of(mend([pair[0] for pair in sentence])) for sentence in sentences]
    predicted = [spans_of(mend([pair[1] for pair in sentence])) for sentence in sentences]
    all_true = {(n, span) for n, spans in enumerate(truth) for span in spans}
    all_predicted = {(n, span) for n, spans in enumerate(predicted) for span in spans}
    found = span_metrics(count_spans(truth, predicted, LABELS), LABELS)
    f1 = quotient(2 * len(all_true & all_predicted), len(all_true) + len(all_predicted))
    assert found["f1"]["micro"] == pytest.approx(f1, abs=1e-12)
    each = []
    for label in LABELS:
        own_true = {pair for pair in all_true if pair[1].label == label}
        own_predicted = {pair for pair in all_predicted if pair[1].label == label}
        precision = quotient(len(own_true & own_predicted), len(own_predicted))
        recall = quotient(len(own_true & own_predicted), len(own_true))
        figures = found["per_class"][label]
        assert figures["precision"] == pytest.approx(precision, abs=1e-12)
        assert figures["recall"] == pytest.approx(recall, abs=1e-12)
        assert (figures["spans"], figures["predicted"]) == (len(own_true), len(own_predicted))
        if own_true or own_predicted:
            each.append(quotient(2 * precision * recall, precision + recall))
    assert found["f1"]["macro"] == pytest.approx(sum(each) / max(len(each), 1), abs=1e-12)


@pytest.fixture(scope="module")
def seqeval() -> Any:
    return pytest.importorskip("seqeval.metrics.v1")


@settings(deadline=None)
@given(sentences=SENTENCES)
def test_figures_are_seqevals_in_its_strict_mode(seqeval: Any, sentences: list[list[tuple[str, str]]]) -> None:
    truth = [mend([pair[0] for pair in sentence]) for sentence in sentences]
    predicted = [mend([pair[1] for pair in sentence]) for sentence in sentences]
    counts = count_spans([spans_of(tags) for tags in truth], [spans_of(tags) for tags in predicted], LABELS)
    if not counts.any():
        return  # seqeval divides by the number of labels that occur
    found = span_metrics(counts, LABELS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for how in ("micro", "macro", "weighted"):
            theirs = seqeval.precision_recall_fscore_support(
                truth, predicted, average=how, scheme=pytest.importorskip("seqeval.scheme").IOB2, zero_division=0
            )
            for name, value in zip(("precision", "recall", "f1"), theirs, strict=False):
                assert found[name][how] == pytest.approx(float(value), abs=1e-9)


def test_right_words_of_a_wrong_label_or_a_part_of_them_are_no_hit() -> None:
    truth = [[Span(0, 8, "loc")], [Span(0, 3, "per")], []]
    predicted = [[Span(0, 3, "loc")], [Span(0, 3, "org")], [Span(1, 2, "loc")]]
    found = span_metrics(count_spans(truth, predicted, LABELS), LABELS)
    assert found["f1"] == {"micro": 0.0, "macro": 0.0, "weighted": 0.0}
    assert count_spans(truth, predicted, LABELS).sum(axis=(0, 2)).tolist() == [0, 2, 3]


def test_many_samples_at_once_are_each_by_itself() -> None:
    counts = np.random.default_rng(0).integers(0, 5, (4, 3, 3))
    counts[:, 1:] += counts[:, :1]
    together = span_figures(counts)
    for sample in range(4):
        for name, value in span_figures(counts[sample]).items():
            assert together[name][sample] == pytest.approx(float(value))
