"""The page of written texts: how good they are, and the worst of them."""

from typing import Any

import pandas as pd

from pipeline.evaluation.report.findings import SCRATCH, WORST, KindPage, Words, shorten

WRITTEN_TEXTS = Words(
    {"chrf": "chrF", "bleu": "BLEU", "rouge_l": "ROUGE-L"},
    {"scratch": SCRATCH, "nearest": "target of the nearest text", "lead": "first sentence of the text"},
    ("nearest", "the nearest text's target", "the target of the training text that is most like (TF-IDF)"),
    "chrf",
    taken="was written as",
)


def text_findings(predictions: pd.DataFrame, rows: pd.DataFrame, config: dict[str, Any]) -> dict[str, Any]:
    """The texts that are least like what should be written, each with what was read."""
    texts = rows.set_index("id")["text"]
    worst = predictions[predictions["target"] != predictions["predicted"]]
    worst = worst.sort_values(["chrf", "id"], kind="stable").head(WORST)
    return {
        "mistakes": [
            {
                "id": row["id"],
                "label": shorten(row["target"]),
                "predicted": shorten(row["predicted"]),
                "certainty": f"with chrF {row['chrf']:.1f}",
                "text": shorten(texts[row["id"]]),
            }
            for row in worst.to_dict("records")
        ]
    }


TEXT_PAGE = KindPage(WRITTEN_TEXTS, text_findings)
