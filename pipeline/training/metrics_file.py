"""The curve of a training as JSON lines: the source of truth, kept beside the weights.

It holds no times, so that the same training writes the same bytes.
"""

from collections.abc import Mapping
from pathlib import Path

from pipeline.common.files import canonical_json, read_jsonl, write_text


class MetricsFile:
    """Appends points; a resumed training first rewinds to its checkpoint's step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, step: int, values: Mapping[str, float]) -> None:
        with self.path.open("a", encoding="utf-8") as handle:
            handle.write(canonical_json({"step": step, **values}) + "\n")

    def rewind(self, step: int) -> None:
        """Drop the points after `step` (all of them for step 0)."""
        kept = [line for line in read_jsonl(self.path) if 0 < line["step"] <= step]
        write_text(self.path, "".join(canonical_json(line) + "\n" for line in kept))
