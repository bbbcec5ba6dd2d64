"""The states of a training in its folder, written in the background, each a pair of files:

checkpoint-000450.safetensors   `model.*`, `optimizer.*`, `random.*` and, once there are some, `best.*`
checkpoint-000450.json          progress, Python's and NumPy's random state, versions, and the sha256 of both files

The JSON is written last and makes the pair a checkpoint; a pair whose hashes do not fit is not used. The last two
stay, so that there is one to fall back on, and every k-th if that is asked for. Frozen parameters are not in them: a
training starts with these each time. Sharded or not, rank 0 writes the whole
tensors, so any number of ranks with any sharding may go on from them.
"""

import platform
import re
import shutil
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.common.errors import HallmarkError
from pipeline.common.files import atomic_path, canonical_json, read_json, sha256_file, sha256_json, write_text
from pipeline.model.weights import load_weights
from pipeline.training.optimizers import Optimizers
from pipeline.training.random_state import RandomState, restore_random_state
from pipeline.training.sharding import is_sharded, own_parameters, part_like, whole

LAST = 2  # checkpoints that stay: the newest, and the one before in case that one is damaged
KEPT = "kept"  # the folder beside the training's own, for every k-th


@dataclass
class Progress:
    """Where a training stands, beside its tensors."""

    step: int = 0  # optimizer steps done, skipped ones included
    batches: dict[str, Any] | None = None  # state of the data iterator after the last step
    validated: int = 0  # the last step that was measured
    skipped_steps: int = 0  # those whose loss or gradient was not finite
    best_value: float | None = None
    best_step: int | None = None
    validations_without_better: int = 0
    finished: bool = False


@dataclass(frozen=True)
class Snapshot:
    """A training's state after a step, on the CPU and shared with nothing that the training goes on to change."""

    step: int
    tensors: dict[str, Tensor]
    about: dict[str, Any]  # the JSON file, less its hashes


class Checkpoints:
    """The checkpoints of one training. Leaving it as a context waits for the write that is under way.

    Args:
        folder: belongs to this training alone.
        keep_every: move checkpoints of these multiples of steps to `kept` beside the folder instead of removing them.
        writes: this rank writes them for all.
        bound_to: what decides the bits of this training beside its settings and `versions`, by name.
    """

    def __init__(
        self,
        folder: Path,
        keep_every: int | None = None,
        writes: bool = True,
        bound_to: Mapping[str, str] | None = None,
    ) -> None:
        self.folder, self.keep_every, self.writes = folder, keep_every, writes
        self.versions = versions() | dict(bound_to or {})
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._write: Future[None] | None = None

    def save(
        self,
        model: nn.Module,
        optimizers: Optimizers,
        progress: Progress,
        best: dict[str, Tensor] | None,
        random: RandomState,
    ) -> None:
        """Copy the state and write it in the background, after the write before. A crash leaves older ones whole.

        All ranks call it: where the state is sharded, those that write nothing send their parts.
        `random` is that after the progress's step: the next may have begun and be broken off.

        Raises:
            HallmarkError: the write before failed.
        """
        self.wait()
        if self.writes or is_sharded(model):
            snapshot = take_snapshot(model, optimizers, progress, best, random, self.versions, keep=self.writes)
            if self.writes:
                self._write = self._thread.submit(self._write_and_prune, snapshot)

    def _write_and_prune(self, snapshot: Snapshot) -> None:
        write_checkpoint(self.folder, snapshot)
        # What is newer than this one was damaged, else the training had gone on from there: it is no one to keep.
        older = [step for step in checkpoint_steps(self.folder) if step <= snapshot.step]
        for step in older[:-LAST]:
            retire(self.folder, step, self.keep_every)

    def check(self) -> None:
        """Raise what the last write failed with, if it is over."""
        if self._write is not None and self._write.done():
            self.wait()

    def wait(self) -> None:
        """Wait until nothing is being written.

        Raises:
            HallmarkError: the disk is full, or the file cannot be written for another reason.
        """
        write, self._write = self._write, None
        if write is None:
            return
        try:
            write.result()
        except (OSError, SafetensorError) as error:
            steps = checkpoint_steps(self.folder)
            raise HallmarkError(
                f"the checkpoint could not be written: {error}",
                where=str(self.folder),
                fix="free space (`dvc gc --workspace` drops old outputs), then dvc repro: it goes on "
                + (f"after step {steps[-1]}" if steps else "from the start"),
            ) from error

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _at: TracebackType | None
    ) -> None:
        try:
            self.wait()
        except HallmarkError as failure:
            if not isinstance(error, Exception):  # none, or only the request to stop
                raise
            print(f"hallmark: {failure}", file=sys.stderr, flush=True)  # the first error is the one to raise
        finally:
            self._thread.shutdown()

    def newest(self) -> Path | None:
        """The newest checkpoint's JSON file, once what is being written is."""
        self.wait()
        steps = checkpoint_steps(self.folder)
        return _paths(self.folder, steps[-1])[1] if steps else None

    def _sweep(self) -> None:
        """Remove what a kill left of a write that was never finished: by us, or by safetensors (`.tmpXXXXXX`)."""
        unfinished = [
            path for path in self.folder.glob("checkpoint-*.safetensors") if not path.with_suffix(".json").exists()
        ]
        for path in [*unfinished, *self.folder.glob(".*")]:
            path.unlink(missing_ok=True)  # other ranks sweep, too

    def load(self, model: nn.Module, optimizers: Optimizers) -> tuple[Progress, dict[str, Tensor] | None] | None:
        """Restore model, optimizers and random state from the newest whole checkpoint; None where there is none at all.

        Returns:
            The progress, and the best weights if there are some yet.

        Raises:
            HallmarkError: all are damaged, or another version of torch wrote them, whose bits may differ.
        """
        self._sweep()
        problems: list[str] = []
        steps = checkpoint_steps(self.folder)
        for step in reversed(steps):
            try:
                tensors, about = read_checkpoint(self.folder, step)
            except DamagedError as damage:
                problems.append(str(damage))
                continue
            for problem in problems:
                print(f"hallmark: warning: {problem}", file=sys.stderr, flush=True)
            if problems:
                lost = f"{steps[-1] - step} steps are done again"
                print(f"hallmark: warning: going on after step {step} instead: {lost}", file=sys.stderr, flush=True)
            check_versions(about["versions"], self.versions, str(_paths(self.folder, step)[1]))
            return restore(model, optimizers, tensors, about)
        if problems:
            listing = "".join(f"\n  - {problem}" for problem in problems)
            pattern = self.folder / "checkpoint-*"
            raise HallmarkError(f"no checkpoint is whole{listing}", where=str(self.folder), fix=f"rm {pattern}")
        return None


def take_snapshot(
    model: nn.Module,
    optimizers: Optimizers,
    progress: Progress,
    best: dict[str, Tensor] | None,
    random: RandomState,
    versions: dict[str, str],
    keep: bool = True,
) -> Snapshot:
    """Copy the state; without `keep` only take part in gathering what is sharded, one tensor at a time."""
    learning = {name: parameter for name, parameter in own_parameters(model).items() if parameter.requires_grad}
    changing = {"model": learning, "optimizer": optimizers.state_tensors()}
    tensors: dict[str, Tensor] = {}
    for part, named in changing.items():
        for name, value in named.items():
            gathered = whole(value.detach())
            if keep:
                tensors[f"{part}.{name}"] = gathered.to("cpu", copy=True).contiguous()
    tensors |= {f"random.{name}": value for name, value in random.torch.items()}
    tensors |= {f"best.{name}": value for name, value in (best or {}).items()}  # never changed, only replaced
    return Snapshot(
        progress.step, tensors, {"progress": dict(vars(progress)), "random": random.to_json(), "versions": versions}
    )


def write_checkpoint(folder: Path, snapshot: Snapshot) -> None:
    tensors_path, about_path = _paths(folder, snapshot.step)
    with atomic_path(tensors_path) as temporary:
        save_file(snapshot.tensors, temporary)
        about = snapshot.about | {"tensors_sha256": sha256_file(temporary)}
    write_text(about_path, canonical_json(about | {"sha256": sha256_json(about)}) + "\n")


class DamagedError(Exception):
    """A checkpoint that was torn or edited."""


def read_checkpoint(folder: Path, step: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the JSON of one checkpoint.

    Raises:
        DamagedError: a file is missing, torn or edited.
    """
    tensors_path, about_path = _paths(folder, step)
    try:
        about = read_json(about_path)
        stated = about.pop("sha256")
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise DamagedError(f"{about_path}: this checkpoint is damaged: {error!r}") from error
    if sha256_json(about) != stated:
        raise DamagedError(f"{about_path}: this checkpoint is damaged: its sha256 is not {stated}")
    try:
        found = sha256_file(tensors_path)
    except OSError as error:
        raise DamagedError(f"{tensors_path}: this checkpoint is damaged: {error}") from error
    if found != about["tensors_sha256"]:
        hashes = f"its sha256 is {found[:12]}, not {about['tensors_sha256'][:12]}"
        raise DamagedError(f"{tensors_path}: this checkpoint is damaged: {hashes}")
    return load_file(tensors_path), about


def restore(
    model: nn.Module, optimizers: Optimizers, tensors: dict[str, Tensor], about: dict[str, Any]
) -> tuple[Progress, dict[str, Tensor] | None]:
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "random": {}, "best": {}}
    for flat_name, value in tensors.items():
        part, _, name = flat_name.partition(".")
        parts[part][name] = value
    own = own_parameters(model)
    weights = {name: part_like(weight, own.get(name)) for name, weight in parts["model"].items()}
    load_weights(model, weights, frozen=False)
    optimizers.load_state_tensors(parts["optimizer"])
    restore_random_state(RandomState(parts["random"], **about["random"]))
    return Progress(**about["progress"]), parts["best"] or None


def checkpoint_steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in `folder`, ascending."""
    found = (re.fullmatch(r"checkpoint-(\d+)\.json", path.name) for path in folder.glob("checkpoint-*.json"))
    return sorted(int(match[1]) for match in found if match)


def retire(folder: Path, step: int, keep_every: int | None) -> None:
    """Remove a checkpoint, or move it to `kept` beside the folder if its step is a multiple of `keep_every`."""
    tensors_path, about_path = _paths(folder, step)
    if keep_every is None or step % keep_every:
        about_path.unlink()  # first: without it the other is no checkpoint
        tensors_path.unlink(missing_ok=True)
        return
    kept = folder.parent / KEPT
    kept.mkdir(exist_ok=True)
    for path in (tensors_path, about_path):
        if path.exists():  # a kill may have come between the two
            path.replace(kept / path.name)


def discard(folder: Path, keep_every: int | None = None) -> None:
    """Remove the folder of a training whose results are written elsewhere, less what is to be kept."""
    for step in checkpoint_steps(folder):
        retire(folder, step, keep_every)
    shutil.rmtree(folder)


def _paths(folder: Path, step: int) -> tuple[Path, Path]:
    stem = f"checkpoint-{step:06d}"
    return folder / f"{stem}.safetensors", folder / f"{stem}.json"


def versions() -> dict[str, str]:
    """The programs that decide the bits of a training."""
    try:
        hallmark = version("hallmark-lm")
    except PackageNotFoundError:  # run from the sources
        hallmark = "not installed"
    return {
        "hallmark": hallmark,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def check_versions(written: dict[str, str], here: dict[str, str], where: str) -> None:
    """Refuse another torch, whose bits may differ; say what else is another."""
    if written["torch"] != here["torch"]:
        raise HallmarkError(
            f"torch {written['torch']} wrote this checkpoint and {here['torch']} is installed: the bits may differ",
            where=where,
            fix=f"rm {Path(where).parent / 'checkpoint-*'} to start over, or install torch {written['torch']}",
        )
    for name in sorted(here.keys() & written.keys()):
        if here[name] != written[name]:
            what = f"{name} {written[name]} wrote this checkpoint and {here[name]} goes on: the bits may differ"
            print(f"hallmark: warning: {where}: {what}", file=sys.stderr, flush=True)
