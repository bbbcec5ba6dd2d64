"""What evaluating a task gives, whatever its kind."""

from dataclasses import dataclass
from typing import Any

import pandas as pd


@dataclass(frozen=True)
class Evaluation:
    """What the stage `evaluate` writes."""

    metrics: dict[str, Any]  # headline figures as {"value", "low", "high"}, "baselines" with the same, and details
    predictions: pd.DataFrame  # one row per test text: id, what is true, what is predicted, a column per baseline
    confusion: pd.DataFrame  # label, predicted: one row per thing to be labelled, as DVC's template counts them
