"""The page of dialogues: answers that the model wrote, beside the true ones."""

import math
from typing import Any

import pandas as pd

from pipeline.common.dialogues import messages_from_json, through_last_answer, transcript
from pipeline.evaluation.report.findings import SCRATCH, SHOWN_CHARACTERS, WORST, KindPage, Words, shorten

DIALOGUE = Words(
    {"token_accuracy": "token accuracy", "perplexity": "perplexity per token (lower is better)"},
    {"scratch": SCRATCH, "unigram": "unigram of the answers"},
    ("unigram", "the unigram", "a unigram of the tokens of the same answers"),
    "token_accuracy",
    "answered by",
)


def dialogue_findings(predictions: pd.DataFrame, rows: pd.DataFrame, _config: dict[str, Any]) -> dict[str, Any]:
    """Of the answers that are not the true ones, those of the dialogues that the model finds least likely."""
    written = predictions.dropna(subset=["predicted"])
    other = written[written["predicted"].str.split() != written["answer"].str.split()]
    per_token = other["nats"] / other["tokens"]
    worst = other.assign(per_token=per_token).sort_values(["per_token", "id"], ascending=[False, True]).head(WORST)
    dialogues = rows.set_index("id")["messages"]
    return {
        "mistakes": [
            {
                "id": row["id"],
                "label": shorten(row["answer"]),
                "predicted": shorten(row["predicted"]) or "nothing",
                "certainty": f"at a perplexity of {math.exp(row['per_token']):.1f}",
                "text": _asked(dialogues[row["id"]]),
            }
            for row in worst.to_dict("records")
        ]
    }


def _asked(content: str) -> str:
    """The end of what stands before the last answer."""
    text = transcript(through_last_answer(messages_from_json(content))[:-1])
    return text if len(text) <= SHOWN_CHARACTERS else f"… {text[-SHOWN_CHARACTERS:].lstrip()}"


DIALOGUE_PAGE = KindPage(DIALOGUE, dialogue_findings)
