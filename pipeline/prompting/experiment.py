"""Every method with every number of demonstrations, seed and order, on the same test texts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from pipeline.common.params import Prompting, Task
from pipeline.model.transformer import Transformer
from pipeline.prompting.asking import Answers, Asker, Labelled, Prompts, check_alone
from pipeline.prompting.demonstrations import shuffle
from pipeline.prompting.pool import Pool, text_vectors
from pipeline.prompting.scoring import Scorer
from pipeline.prompting.templates import LabelWords, Template, text_room
from pipeline.tasks.classification import known_labels
from pipeline.tasks.rows import draw_labels, in_drawn_order, of_split
from pipeline.tokenization.tokenizer import Tokenizer

ZERO_SHOT = "zero_shot"  # the method where there are no demonstrations


@dataclass(frozen=True)
class Run:
    """The answers to all test texts with one choice and order of demonstrations."""

    method: str
    shots: int
    seed: int
    order: int
    predicted: Answers
    uncalibrated: Answers


@dataclass(frozen=True)
class Refusal:
    """A method and number of demonstrations that was not measured: some prompts do not fit the context."""

    method: str
    shots: int
    too_long: int
    prompts: int
    longest: int  # tokens, with the longest answer


@dataclass
class Prompted:
    """What was asked and answered.

    Attributes:
        labels: of the task.
        ids, truth: of the test texts.
        majority: the label that most training texts have.
        facts: what was derived, drawn and cut; to be printed and recorded.
    """

    labels: list[str]
    ids: list[str]
    truth: list[str]
    majority: str
    facts: dict[str, Any]
    runs: list[Run] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)

    def predictions(self) -> pd.DataFrame:
        """One row per run and test text: method, shots, seed, order, id, label, predicted, uncalibrated."""
        tables = [
            pd.DataFrame(
                {
                    "method": run.method,
                    "shots": run.shots,
                    "seed": run.seed,
                    "order": run.order,
                    "id": self.ids,
                    "label": self.truth,
                    "predicted": pd.Series(run.predicted, dtype="str"),
                    "uncalibrated": pd.Series(run.uncalibrated, dtype="str"),
                }
            )
            for run in self.runs
        ]
        return pd.concat(tables, ignore_index=True)


def prompt_task(
    rows: pd.DataFrame,
    where: str,
    model: Transformer,
    tokenizer: Tokenizer,
    *,
    task: Task,
    settings: Prompting,
    seed: int,
) -> Prompted:
    """Ask a decoder for the labels of test texts.

    Each of `settings.seeds` draws its own pool of training texts, as fine-tuning with that seed would, and decides the
    order of the demonstrations. A condition of which any prompt does not fit the context is refused as a whole, so that
    all figures are of the same texts.

    Args:
        rows: the task's table, see `pipeline.tasks.rows.read_rows`.
        where: the file they come from, for messages.
        model: a decoder in eval mode, with its head.
        tokenizer: the model's own.
        task: settings of the task.
        settings: how it is prompted.
        seed: draws the test texts, and the validation texts of the method `gradient`.

    Raises:
        HallmarkError: the model is no decoder; a split is empty; template or label words do not work; or texts do not
            fit the context even without demonstrations.
    """
    labels = known_labels(rows, where)
    asker, text_tokens = _make_asker(model, tokenizer, labels, settings)
    train = of_split(rows, "train", where)
    test, validation = (
        asker.prepare(in_drawn_order(of_split(rows, split, where), seed)[: settings.texts], text_tokens)
        for split in ("test", "validation")
    )
    drawn = {
        chosen: asker.prepare(draw_labels(train, task.labels_per_class, chosen)[0][: settings.pool], text_tokens)
        for chosen in settings.seeds
    }
    check_alone(asker, [test, validation, *drawn.values()], text_tokens)
    majority = str(train["label"].value_counts().sort_index().idxmax())
    facts = _facts(asker, text_tokens, test, drawn[settings.seeds[0]])
    found = Prompted(labels, test.ids, test.labels, majority, facts)
    pools = {seed: Pool(asker.scorer, pool, asker.words.ids, validation.examples) for seed, pool in drawn.items()}
    queries_QD = text_vectors(model, test.alone)
    for method, shots in conditions(settings):
        _ask(found, asker, method, shots, list(_plan(asker, test, queries_QD, pools, method, shots)))
    return found


def _make_asker(model: Transformer, tokenizer: Tokenizer, labels: list[str], settings: Prompting) -> tuple[Asker, int]:
    """The asker, and how many tokens of a text it is given."""
    scorer, template = Scorer(model), Template.parse(settings.template)
    words = LabelWords.make(labels, settings.label_words, template, tokenizer)
    text_tokens = settings.text_tokens
    if text_tokens is None:
        text_tokens = text_room(template, words, tokenizer, model.config.context_length, max(settings.shots))
    return Asker(scorer, tokenizer, template, words, settings), text_tokens


def _facts(asker: Asker, text_tokens: int, test: Labelled, pool: Labelled) -> dict[str, Any]:
    return {
        "text_tokens": text_tokens,
        "context_tokens": asker.context,
        "label_tokens": asker.words.longest,
        "test_texts": len(test.texts),
        "test_texts_cut": test.cut,
        "pool_texts": len(pool.texts),
        "pool_texts_cut": pool.cut,
    }


def _ask(found: Prompted, asker: Asker, method: str, shots: int, plan: list[tuple[int, int, Prompts]]) -> None:
    """Add the runs of a condition to what was found, or that it does not fit."""
    prompts = [prompt for _, _, written in plan for prompt in written]
    if count := asker.too_long(prompts):
        longest = max(map(asker.tokens_needed, prompts))
        found.refusals.append(Refusal(method, shots, count, len(prompts), longest))
        return
    for seed, order, written in plan:
        found.runs.append(Run(method, shots, seed, order, *asker.answer(written)))


def conditions(settings: Prompting) -> Iterator[tuple[str, int]]:
    """Each method with each number of demonstrations; none at all is one condition, whatever the method."""
    if 0 in settings.shots:
        yield ZERO_SHOT, 0
    for method in settings.methods:
        yield from ((method, shots) for shots in sorted(settings.shots) if shots)


def _plan(
    asker: Asker,
    test: Labelled,
    queries_QD: np.ndarray,
    pools: dict[int, Pool],
    method: str,
    shots: int,
) -> Iterator[tuple[int, int, Prompts]]:
    """The prompts of every run of a condition: (seed, order, prompts)."""
    settings = asker.settings
    if not shots:
        yield settings.seeds[0], 0, asker.write(test.texts, [()] * len(test.texts), test)
        return
    for seed in settings.seeds:
        sets: Sequence[Sequence[int]] = pools[seed].choose(method, queries_QD, shots, settings.balanced)
        for order in range(settings.orders):
            ordered = [shuffle(places, seed, order) for places in sets]
            yield seed, order, asker.write(test.texts, ordered, pools[seed].drawn)
