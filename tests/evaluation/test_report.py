"""The report's charts, sentences and pages, from facts made up here."""

import html
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common.files import sha256_folder
from pipeline.evaluation.report.charts import Bar, Line, interval_chart, line_chart, ticks
from pipeline.evaluation.report.class_page import CLASSIFICATION, worst_mistakes
from pipeline.evaluation.report.findings import bars, confusions, result_rows, verdicts
from pipeline.evaluation.report.page import code, markdown, write_report

EVIL = "</pre><script>alert('x')</script> & | `code` *bold* [link](http://x)"
CLASSES = ["a", EVIL]
NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)


def figure(value: float, width: float = 0.05) -> dict[str, float]:
    return {"value": value, "low": value - width, "high": value + width}


def metrics_of(model: float, scratch: float, tfidf: float, width: float = 0.05) -> dict[str, Any]:
    found: dict[str, Any] = {"accuracy": figure(model), "macro_f1": figure(model)}
    for name in ("precision", "recall", "f1"):
        found[name] = {"macro": model, "micro": model, "weighted": model}
    found["per_class"] = {label: {"precision": 0.5, "recall": 0.5, "f1": 0.5, "rows": 3} for label in CLASSES}
    found["baselines"] = {
        name: {"accuracy": figure(value), "macro_f1": figure(value), "lead_macro_f1": figure(model - value, width)}
        for name, value in {"majority": 0.1, "tfidf": tfidf, "scratch": scratch}.items()
    }
    return found | {
        "labels_per_class": None,
        "classes_with_too_few_texts": {EVIL: 2},
        "train_rows": 1234,
        "test_rows": 6,
    }


def predictions() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": [f"id-{number}" for number in range(6)],
            "label": ["a", "a", "a", EVIL, EVIL, EVIL],
            "predicted": ["a", EVIL, EVIL, EVIL, "a", EVIL],
            "p_a": [0.9, 0.3, 0.1, 0.2, 0.8, 0.4],
            f"p_{EVIL}": [0.1, 0.7, 0.9, 0.8, 0.2, 0.6],
        }
    )


def make_facts() -> dict[str, Any]:
    metrics, expectation = (
        metrics_of(0.8, 0.6, 0.7),
        {"meaning": EVIL, "severity": "warning", "success": False, "rows": 2},
    )
    texts = pd.DataFrame(
        {"id": [f"id-{n}" for n in range(6)], "text": [f"{EVIL} number {n}\n\nmore" for n in range(6)]}
    )
    curve = [(1, 0.5), (2, 0.7)]
    task = {
        "name": "kind",
        "kind": "classification",
        "headlines": CLASSIFICATION.headlines,
        "learned": CLASSIFICATION.learned,
        "metrics": metrics,
        "training": {
            "best_epoch": 2,
            "epochs": 3,
            "train_texts": 1234,
            "train_texts_cut": 7,
            "validation_texts": 50,
            "validation": {"macro_f1": 0.625},
            "threshold": -1.5,
        },
        "verdicts": verdicts(metrics, 0.95, CLASSIFICATION),
        "bars": {headline: bars(metrics, headline, CLASSIFICATION) for headline in ("macro_f1", "accuracy")},
        "results": result_rows(metrics, CLASSIFICATION),
        "labels": [{"label": label, "used": 2, "train": 3, "validation": 1, "test": 3} for label in CLASSES],
        "confusions": confusions(predictions(), CLASSES),
        "mistakes": worst_mistakes(predictions(), texts),
        "curves": {"finetune": curve, "scratch": curve},
        "taken": "taken for",
    }
    table = {"rows": 9, "characters": 99, "splits": {"train": 5, "validation": 4}}
    counts = {"rows": 9, "kept": 7, "quarantined": 2, "duplicates": 0, "rejected": 0}
    return {
        "key": "k" * 64,
        "seed": 1,
        "confidence": 0.95,
        "bootstrap_samples": 1000,
        "tasks": [task],
        "pretrain": {
            "bits_per_byte": 1.75,
            "ngram_bits_per_byte": 1.97,
            "parameters": 5_000_000,
            "steps": 700,
            "tokens": 2_900_000,
            "model": {"num_layers": 4, "hidden_size": 256, "num_heads": 4, "context_length": 256},
            "loss": [(1, 8.0), (2, 5.0)],
            "bits": [(2, 1.8)],
            "validation_loss": 3.5,
            "validation_accuracy": 0.25,
            "validation_losses": [(2, 5.2)],
        },
        "samples": [{"prompt": "", "text": EVIL}, {"prompt": EVIL, "text": "went on"}],
        "data": {"documents": table, "tasks": {"kind": table}, "rejected": 3, "versions": {"numpy": "2.0"}},
        "tokenizer": {"vocab_size": 4096, "validation": {"bytes_per_token": 3.26, "vocabulary_used": 0.96}},
        "encode": {"train": {"tokens": 6_900_000}},
        "validation": {
            "tables": [{"name": "documents", "counts": counts, "expectations": {"text_length": expectation}}],
            "quarantined": [{"table": "documents", "id": EVIL, "reasons": EVIL}],
            "quarantined_rows": 2,
        },
        "lineage": [("data/clean/documents.parquet", "0" * 64)],
    }


class Tags(HTMLParser):
    """Collects the tags of a page, and complains about ones that are not closed."""

    EMPTY = ("meta", "br", "link")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def page(tmp_path: Path) -> str:
    write_report(tmp_path, make_facts())
    return (tmp_path / "index.html").read_text(encoding="utf-8")


def test_the_page_needs_nothing_from_outside(page: str) -> None:
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in tags.found}
    addresses = [attributes[name] for _, attributes in tags.found for name in ("src", "href") if name in attributes]
    assert addresses
    assert all(str(address).startswith("#") for address in addresses)
    assert not re.search(r"@import|url\(", page)
    targets = {attributes.get("id") for _, attributes in tags.found}
    assert {str(address).removeprefix("#") for address in addresses} <= targets


def test_text_from_outside_is_text_and_never_markup(page: str) -> None:
    assert EVIL not in page
    assert page.count(html.escape(EVIL, quote=False).replace("'", "&#39;")) > 8


def test_the_page_says_what_was_found(page: str) -> None:
    for sentence in [
        "Pretraining helped: the fine-tuned model&#39;s macro-F1 differs by +0.200",
        "The model beats TF-IDF",
        "1.750 bits per byte",
        "is more than -1.500 above that of",
        "0.800 (0.750 to 0.850)",
        "5,000,000 parameters",
        "id-2",
        "3 rows could not be read",
        "k" * 64,
    ]:
        assert sentence in page, sentence


def test_the_twin_says_the_same_and_shows_the_charts_beside_it(page: str, tmp_path: Path) -> None:
    twin = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "<script>" not in re.sub(r"(?m)^    .*$", "", twin).replace("\\<", "")
    for chart in re.findall(r"\((charts/[^)]+)\)", twin):
        ElementTree.parse(tmp_path / chart)
    for line in (
        "| pretrained, fine-tuned | 0.800 (0.750 to 0.850) |",
        "> Pretraining helped",
        "**1.750 bits per byte**",
        "so validation has its best figure, 0.625.",
    ):
        assert line in twin
    rows = [line for line in twin.splitlines() if line.startswith("|")]
    assert len(rows) > 20
    assert all(line.endswith("|") for line in rows)


def test_the_curves_are_tables_that_dvc_plots(page: str, tmp_path: Path) -> None:
    assert (tmp_path / "curves/pretrain/loss.csv").read_text() == "step,loss\n1,8.0\n2,5.0\n"
    assert (tmp_path / "curves/tasks/kind_scratch.csv").read_text() == "step,score\n1,0.5\n2,0.7\n"


def test_a_model_that_is_not_causal_shows_its_loss_and_no_bits_per_byte(tmp_path: Path) -> None:
    facts = make_facts()
    del facts["pretrain"]["bits_per_byte"]
    facts["pretrain"]["bits"], facts["samples"] = [], []
    write_report(tmp_path, facts)
    for name in ("index.html", "report.md"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "25.0 %" in text
        assert "3.500 nats per target" in text
        assert "its bits per byte are not defined" in text
        assert "pretrain-bits" not in text
        assert "Only a decoder goes on with a text" in text
    assert (tmp_path / "curves/pretrain/bits.csv").read_text() == "step,bits_per_byte\n"


def test_a_task_without_labels_has_no_section_about_them(tmp_path: Path) -> None:
    facts = make_facts()
    task = facts["tasks"][0]
    task |= {"labels": [], "confusions": None, "metrics": {**task["metrics"]}}
    for name in ("precision", "labels_per_class", "classes_with_too_few_texts"):
        del task["metrics"][name]
    write_report(tmp_path, facts)
    for page in ("index.html", "report.md"):
        text = (tmp_path / page).read_text(encoding="utf-8")
        assert "What is taken for what" not in text
        assert "Classes" not in text
        assert "The worst mistakes" in text


def test_the_same_facts_are_the_same_bytes(page: str, tmp_path: Path) -> None:
    before = sha256_folder(tmp_path)
    write_report(tmp_path, make_facts())
    assert sha256_folder(tmp_path) == before


@pytest.mark.parametrize(
    ("scratch", "width", "tone", "start"),
    [
        (0.6, 0.05, "good", "Pretraining helped"),
        (0.79, 0.05, "open", "Pretraining was not shown to help"),
        (0.9, 0.05, "bad", "Pretraining hurt"),
    ],
)
def test_pretraining_helped_only_where_the_interval_says_so(
    scratch: float, width: float, tone: str, start: str
) -> None:
    verdict = verdicts(metrics_of(0.8, scratch, 0.7, width), 0.95, CLASSIFICATION)[0]
    assert verdict["tone"] == tone
    assert verdict["sentence"].startswith(start + ":")


def test_overlap_of_the_two_intervals_is_said() -> None:
    near, far = (
        verdicts(metrics_of(0.8, scratch, 0.7, 0.01), 0.95, CLASSIFICATION)[0]["sentence"] for scratch in (0.75, 0.6)
    )
    assert near.startswith("Pretraining helped")
    assert near.endswith("intervals overlap.")
    assert far.endswith("intervals do not overlap.")


def test_the_worst_mistake_is_the_one_it_was_surest_of() -> None:
    texts = pd.DataFrame({"id": [f"id-{n}" for n in range(6)], "text": ["x" * 1000] * 6})
    found = worst_mistakes(predictions(), texts)
    assert [mistake["id"] for mistake in found] == ["id-2", "id-4", "id-1"]
    assert found[0]["certainty"] == "with probability 0.900"
    assert found[0]["text"].endswith(" …")
    right = predictions().assign(predicted=lambda frame: frame["label"])
    assert worst_mistakes(right, texts) == []


def test_confusions_are_counted_by_true_class() -> None:
    found = confusions(predictions(), [*CLASSES, "absent"])
    assert [[count for count, _ in row["cells"]] for row in found["table"]] == [[1, 2, 0], [1, 2, 0], [0, 0, 0]]
    assert found["pairs"] == [(2, "a", EVIL), (1, EVIL, "a")]


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=9), st.text())
def test_any_curve_is_a_picture(points: list[tuple[float, float]], name: str) -> None:
    name = "".join(character for character in name if character.isprintable())
    picture = line_chart(name, "x", "y", [Line(name, points), Line("none", [])], [(name, 1.0)])
    ElementTree.fromstring(picture)
    assert "nan" not in picture
    ElementTree.fromstring(interval_chart(name, [Bar(name, value, value, value) for value, _ in points]))


@given(NUMBERS, NUMBERS)
def test_ticks_are_few_round_and_inside(one: float, other: float) -> None:
    low, high = sorted((one, other))
    found = ticks(low, high)
    assert len(found) <= 7
    slack = 1e-6 * max(abs(low), abs(high), 1e-6)
    assert all(low - slack <= tick <= high + slack for tick in found)


def test_markdown_and_code_keep_text_in_its_place() -> None:
    assert markdown("a|b\n*c* <d>") == r"a\|b \*c\* \<d\>"
    assert code("```\nx") == "    ```\n    x"
    assert code("") == "    "
