"""A temporary clone of this checkout in which a benchmark builds, with state of its own."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.common.errors import HallmarkError

REPOSITORY = Path(__file__).resolve().parent.parent
OWN_SETTINGS = ("DVC_", "HALLMARK_", "MLFLOW_", "PREFECT_", "PYTHONPATH", "TORCHINDUCTOR_")


@dataclass(frozen=True)
class Checkout:
    """A clone and the environment of the commands that run in it."""

    root: Path
    environment: Mapping[str, str]

    def time(self, *command: str, **environment: str) -> float:
        """Run a command to its end, with its output on stderr, and return its seconds.

        Raises:
            HallmarkError: it exits non-zero.
        """
        started = time.perf_counter()
        done = subprocess.run(command, cwd=self.root, env={**self.environment, **environment}, stdout=sys.stderr)
        seconds = time.perf_counter() - started
        if done.returncode:
            raise HallmarkError(f"`{' '.join(command)}` exited {done.returncode}; its output is above")
        return seconds

    def stages(self) -> dict[str, str]:
        """The command of each stage, in an order in which each comes after what it needs."""
        import networkx
        from dvc.repo import Repo

        with Repo(str(self.root)) as repo:
            place = {stage: number for number, stage in enumerate(repo.index.stages)}
            ordered = networkx.lexicographical_topological_sort(repo.index.graph.reverse(), key=place.__getitem__)
            return {stage.addressing.rpartition(":")[2]: str(stage.cmd) for stage in ordered}

    def timings(self) -> dict[str, dict[str, Any]]:
        """What each stage wrote about itself: seconds, peak_memory_bytes, tokens_per_second ..., by stage name."""
        files = (self.root / ".hallmark" / "stages").glob("*/timing.json")
        return {found["stage"]: found for found in (json.loads(file.read_text(encoding="utf-8")) for file in files)}


@contextmanager
def temporary_checkout(name: str) -> Iterator[Checkout]:
    """Clone HEAD into a temporary folder. State and caches are its own, and cold."""
    with tempfile.TemporaryDirectory(prefix=f"hallmark-{name}-", ignore_cleanup_errors=True) as folder:
        root = Path(folder) / "checkout"
        subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(REPOSITORY), str(root)], check=True)
        kept = {key: value for key, value in os.environ.items() if not key.startswith(OWN_SETTINGS)}
        yield Checkout(
            root,
            kept
            | {
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
                "DVC_SITE_CACHE_DIR": f"{folder}/dvc-site",
                "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
                "PREFECT_HOME": f"{folder}/prefect",
                "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            },
        )
