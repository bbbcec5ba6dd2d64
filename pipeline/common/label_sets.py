"""The labels of a text that may have any number of them, and how a table holds them: as JSON text."""

import json
from collections.abc import Iterable


def labels_to_json(labels: Iterable[str]) -> str:
    """`["a", "b"]`, sorted and each once: always the same for the same labels."""
    return json.dumps(sorted(set(labels)), ensure_ascii=False)


def labels_from_json(content: str) -> list[str]:
    """The labels that `labels_to_json` wrote."""
    return json.loads(content)
