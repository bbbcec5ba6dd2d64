"""k-fold cross-validation of a task: every labelled row is held out once, and measured by a model that never saw it."""

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import pandas as pd
import torch

from pipeline.common.errors import HallmarkError, allowed
from pipeline.common.layout import PRETRAINED, clean_task
from pipeline.common.params import Params, Task
from pipeline.corpus.splitting import TRAIN, VALIDATION, draw, draw_split
from pipeline.model.config import ModelConfig
from pipeline.model.weights import read_weights
from pipeline.tasks.finetuning import fine_tune
from pipeline.tasks.kinds import KINDS
from pipeline.tasks.rows import read_rows

FEWEST = 2
STOPPING_SHARE = 0.1  # of what is not held out: chooses the weights that are kept
CHECKPOINT_EVERY = 1000


@dataclass(frozen=True)
class CrossValidation:
    """Figures of each fold's model on its held-out rows.

    Attributes:
        task: its name.
        rows: held out in each fold.
        folds: the figures of each, by their names.
        mean, deviation: over the folds; the deviation is that of a sample (divided by folds - 1).
    """

    task: str
    rows: list[int]
    folds: list[dict[str, float]]
    mean: dict[str, float]
    deviation: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def lines(self) -> list[str]:
        """As it is printed."""
        found = [f"task {self.task}, {len(self.folds)} folds of {min(self.rows)} to {max(self.rows)} rows"]
        for name in self.mean:
            each = ", ".join(f"{fold[name]:.3f}" for fold in self.folds)
            found.append(f"{name:<16}  {self.mean[name]:.3f} +- {self.deviation[name]:.3f}  ({each})")
        return found


def cross_validate(name: str, params: Params, folds: int) -> CrossValidation:
    """Fine-tune the pretrained model `folds` times. The splits of the rows are not heeded; nothing built changes.

    Raises:
        HallmarkError: there is no such task, nothing to start from, or there are too few rows.
    """
    if name not in params.tasks:
        raise HallmarkError(f"there is no task {name!r}; {allowed(params.tasks)}", where="params.yaml: tasks")
    task, table = params.tasks[name], clean_task(name)
    rows = read_rows(table)
    keys = fold_keys(rows, task)
    if not FEWEST <= folds <= keys.nunique():
        raise HallmarkError(
            f"{folds} folds of {keys.nunique()} different {keys.name}s: there must be {FEWEST} folds or more, and a "
            f"{keys.name} for each",
            where=str(table),
            fix="set --folds to a number between",
        )
    numbers = number_folds(keys, folds, params.seed)
    figures = [_measure(rows, keys, numbers == fold, f"{name}, fold {fold + 1}", task, params) for fold in range(folds)]
    values = {key: [fold[key] for fold in figures] for key in figures[0]}
    return CrossValidation(
        name,
        [int((numbers == fold).sum()) for fold in range(folds)],
        figures,
        {key: mean(each) for key, each in values.items()},
        {key: stdev(each) for key, each in values.items()},
    )


def fold_keys(rows: pd.DataFrame, task: Task) -> "pd.Series[str]":
    """What may not be torn apart: rows of one text; of python-docs, rows of one module (the group)."""
    return rows["text" if task.path else "group"]


def number_folds(keys: "pd.Series[str]", folds: int, seed: int) -> "pd.Series[int]":
    """The fold of each row, 0 to `folds` - 1: drawn by the seed, with as many keys in each as can be."""
    ordered = sorted(keys.unique(), key=lambda key: draw(seed, key))
    return keys.map({key: place % folds for place, key in enumerate(ordered)})


def _measure(
    rows: pd.DataFrame, keys: "pd.Series[str]", held_out: "pd.Series[bool]", name: str, task: Task, params: Params
) -> dict[str, float]:
    """Train on all but the rows that are held out, and measure on these."""
    settings, where = params.finetune, str(clean_task(name.partition(",")[0]))
    weights, config, tokenizer = read_weights(PRETRAINED)
    body = ModelConfig.from_dict(config["model"])
    splits = [draw_split(params.seed, key, {VALIDATION: STOPPING_SHARE}) for key in keys]
    open_rows = rows.assign(split=splits)[~held_out]

    def prepare(table: pd.DataFrame, validation_texts: int) -> Any:
        limited = settings.model_copy(update={"validation_texts": validation_texts})
        return KINDS[task.kind].prepare(table, where, tokenizer, task, limited, body, params.seed)

    with tempfile.TemporaryDirectory(prefix="hallmark-fold-") as scratch:
        trained = fine_tune(
            prepare(open_rows, settings.validation_texts),
            weights,
            body,
            settings,
            params.compute,
            seed=params.seed,
            name=name,
            scratch=Path(scratch),
            checkpoint_every=CHECKPOINT_EVERY,
            announce=lambda facts: None,
            report=lambda step, values: None,
        )
    tested = pd.concat([open_rows[open_rows["split"] == TRAIN], rows[held_out].assign(split=VALIDATION)])
    trained.model.eval()
    measured = prepare(tested, int(held_out.sum()))
    measured.config |= trained.tuned
    with torch.inference_mode():
        return measured.measure(trained.model, trained.runtime.device)
