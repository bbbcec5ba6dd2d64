"""What the figures of a task say, in plain sentences, whatever its kind."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from pipeline.common.params import Task
from pipeline.evaluation.report.charts import Bar
from pipeline.tasks.rows import PAIR

MODEL = "pretrained, fine-tuned"
SCRATCH = "same network, random weights"


@dataclass(frozen=True)
class Words:
    """How the page speaks of a kind of task.

    Attributes:
        headlines: its figures with intervals, the leading one first.
        baselines: by their keys in the metrics.
        rival: the key of the baseline that the model should beat, how it is called, and in full.
        learned: the figure on validation that training follows.
        taken: what stands between what is true and what was predicted instead.
    """

    headlines: dict[str, str]
    baselines: dict[str, str]
    rival: tuple[str, str, str]
    learned: str
    taken: str = "taken for"

    @property
    def lead(self) -> str:
        return next(iter(self.headlines))

    def of(self, metrics: dict[str, Any]) -> "Words":
        """Only the figures and baselines that a task has: some are there only where they say something."""
        return replace(
            self,
            headlines={name: words for name, words in self.headlines.items() if name in metrics},
            baselines={name: words for name, words in self.baselines.items() if name in metrics["baselines"]},
        )

    def led_by(self, figure: str) -> "Words":
        """The same with this figure first, and followed in training, if it is one of the headlines."""
        if figure not in self.headlines:
            return self
        return replace(self, headlines={figure: self.headlines[figure]} | self.headlines, learned=figure)


@dataclass(frozen=True)
class KindPage:
    """What the page shows of a kind of task.

    Attributes:
        words: how it speaks.
        findings: (predictions, rows, the "task" of the model's config) to "mistakes", a list of "id", "label" (what is
            true), "predicted", "certainty" (in words) and "text"; and, where there is something to be confused,
            "confusions", see `confusions`.
        label_counts: (rows, labels, task, seed) to what there is of each label, for kinds that have labels.
    """

    words: Words
    findings: Callable[[pd.DataFrame, pd.DataFrame, dict[str, Any]], dict[str, Any]]
    label_counts: Callable[[pd.DataFrame, list[str], Task, int], list[dict[str, Any]]] | None = None


WORST = 8  # mistakes shown
CONFUSIONS, SHOWN_CHARACTERS = 10, 600


def verdicts(metrics: dict[str, Any], confidence: float, words: Words) -> list[dict[str, str]]:
    """Whether pretraining, and the model as a whole, was shown to help: {"tone": good | bad | open, "sentence"}."""
    rival, name, in_full = words.rival
    return [
        _verdict(
            metrics,
            "scratch",
            confidence,
            words,
            good="Pretraining helped",
            bad="Pretraining hurt",
            open_="Pretraining was not shown to help",
            other="the same network fine-tuned on the same labels from random weights",
        ),
        _verdict(
            metrics,
            rival,
            confidence,
            words,
            good=f"The model beats {name}",
            bad=f"{name[0].upper()}{name[1:]} beats the model",
            open_=f"The model was not shown to beat {name}",
            other=in_full,
        ),
    ]


def _verdict(
    metrics: dict[str, Any],
    baseline: str,
    confidence: float,
    words: Words,
    *,
    good: str,
    bad: str,
    open_: str,
    other: str,
) -> dict[str, str]:
    lead = metrics["baselines"][baseline][f"lead_{words.lead}"]
    own, theirs = metrics[words.lead], metrics["baselines"][baseline][words.lead]
    apart = own["low"] > theirs["high"] or own["high"] < theirs["low"]
    interval = f"{100 * confidence:g} % interval {lead['low']:+.3f} to {lead['high']:+.3f}"
    figures = (
        f"the fine-tuned model's {words.headlines[words.lead]} differs by {lead['value']:+.3f} from that of {other} "
        f"({interval}, paired)"
    )
    if lead["low"] > 0:
        tone, claim = "good", good
    elif lead["high"] < 0:
        tone, claim = "bad", bad
    else:
        tone, claim = "open", open_
        figures += "; no difference at all is among what is likely"
    own_words = "The two models' own intervals do not overlap." if apart else "The two models' own intervals overlap."
    return {"tone": tone, "sentence": f"{claim}: {figures}. {own_words}"}


def bars(metrics: dict[str, Any], headline: str, words: Words) -> list[Bar]:
    """The model's figure and those of its baselines, each with its interval."""
    rows = {MODEL: metrics} | {name: metrics["baselines"][key] for key, name in words.baselines.items()}
    return [Bar(name, **{part: row[headline][part] for part in ("value", "low", "high")}) for name, row in rows.items()]


def result_rows(metrics: dict[str, Any], words: Words) -> list[dict[str, Any]]:
    """One row per model: its headline figures, and by how much the fine-tuned model leads it."""
    rows = [{"name": MODEL, "lead": None, **{key: metrics[key] for key in words.headlines}}]
    for key, name in words.baselines.items():
        found = metrics["baselines"][key]
        lead = found[f"lead_{words.lead}"]
        rows.append({"name": name, "lead": lead, **{line: found[line] for line in words.headlines}})
    return rows


def confusions(predictions: pd.DataFrame, classes: list[str]) -> dict[str, Any]:
    """The confusion matrix as counts and row shares, and the pairs confused most often."""
    counts = pd.crosstab(predictions["label"], predictions["predicted"]).reindex(
        index=classes, columns=classes, fill_value=0
    )
    table = [
        {"label": label, "cells": [(int(count), int(count) / max(int(row.sum()), 1)) for count in row]}
        for label, row in counts.iterrows()
    ]
    pairs = [
        (count, label, taken)
        for label, row in zip(classes, counts.to_numpy().tolist(), strict=True)
        for taken, count in zip(classes, row, strict=True)
        if count and label != taken
    ]
    top = sorted(pairs, key=lambda pair: (-pair[0], pair[1:]))[:CONFUSIONS]
    return {"classes": classes, "table": table, "pairs": top}


def shown_texts(rows: pd.DataFrame) -> "pd.Series[str]":
    """What the page shows of each row, by its id: its text, or its two texts."""
    table = rows.set_index("id")
    texts = table["text"].map(shorten)
    return texts + "\n\n" + table[PAIR].map(shorten) if PAIR in table else texts


def shorten(text: str) -> str:
    text = text.strip()
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS].rstrip() + " …"
