"""Where a flow builds: in the checkout itself, or, with other settings, in a Git worktree beside it.

A worktree is what the checkout is now, less its ignored files, with other values in `params.yaml`. It shares DVC's
cache and this machine's state, so that what was built before is not built again, and a killed training goes on.
"""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.utils.serialize import modify_yaml

from pipeline.common.errors import HallmarkError
from pipeline.common.params import PARAMS_FILE, check_params

KEPT = 3  # finished worktrees, to look at; each holds a copy of the outputs


@contextmanager
def workspace(
    root: Path, home: Path, build: str, overrides: Mapping[str, Any], say: Callable[[str], object] = print
) -> Iterator[Path]:
    """The folder to build in, for this flow alone: another one waits, since two builds would write the same files.

    Args:
        root: the checkout.
        home: this machine's state.
        build: the id of the build; names the worktree.
        overrides: settings by dotted name, {"finetune.learning_rate": 1e-4}; none builds in the checkout.
        say: is told, in a sentence, what is waited for.

    Raises:
        HallmarkError: unknown or wrong settings, all at once; or no Git here.
    """
    if not overrides:
        with exclusive(home / "rebuild.lock", say):
            yield root
        return
    check_overrides(root, overrides)
    folder = home / "worktrees" / build
    folder.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(folder.with_suffix(".lock"), say):
        _forget_old(root, folder.parent)
        _copy_checkout(root, folder)
        override(folder / PARAMS_FILE, overrides)
        _fetch_outputs(root, folder)
        yield folder


@contextmanager
def exclusive(path: Path, say: Callable[[str], object]) -> Iterator[None]:
    """Hold a lock of the operating system, which is free once its holder is dead."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting: another rebuild works here ({path})")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def check_overrides(root: Path, overrides: Mapping[str, Any]) -> None:
    """Refuse unknown names and wrong values before anything runs."""
    import yaml

    raw = yaml.safe_load((root / PARAMS_FILE).read_text(encoding="utf-8")) or {}
    _set_all(raw, overrides)
    check_params(raw, "the flow's params")


def override(path: Path, overrides: Mapping[str, Any]) -> None:
    """Change values in a YAML file and nothing else of it: DVC compares what is written, not what it means."""
    with modify_yaml(str(path)) as document:
        _set_all(document, overrides)


def _set_all(document: Any, overrides: Mapping[str, Any]) -> None:
    for name, value in overrides.items():
        *sections, key = name.split(".")
        place = document
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise HallmarkError(f"{section!r} has no settings below it", where=f"the flow's params: {name}")
        place[key] = value


def _copy_checkout(root: Path, folder: Path) -> None:
    """A worktree of the checkout as it is: changed, deleted and new files too, ignored ones not."""
    if not (root / ".git").exists():
        raise HallmarkError("params can be overridden only in a Git checkout", where=str(root), fix="git init")
    _git(root, "status", "--porcelain")  # refreshes the index: `stash create` fails on a file touched and not changed
    changed = _git(root, "stash", "create")  # a commit of the tracked files as they are; touches nothing else
    _git(root, "worktree", "add", "--quiet", "--detach", str(folder), "HEAD")
    if changed:
        _git(folder, "read-tree", "-u", "--reset", changed)
    for name in _git(root, "ls-files", "-z", "--others", "--exclude-standard").split("\0"):
        if name:
            _copy(root / name, folder / name)


def _fetch_outputs(root: Path, folder: Path) -> None:
    """Share DVC's cache, bring what was built before, and the sources that Git and DVC do not track."""
    local = root / ".dvc/config.local"
    if local.exists():
        _copy(local, folder / ".dvc/config.local")
    try:
        with Repo(str(root)) as repo:
            cache = repo.cache.local_cache_dir
        with Repo(str(folder)) as repo, repo.config.edit("local") as config:
            config["cache"] = {**config.get("cache", {}), "dir": cache}
        with Repo(str(folder)) as repo:
            repo.checkout(allow_missing=True)
            outputs = [Path(out.fs_path) for stage in repo.index.stages for out in stage.outs]
            sources = {
                Path(dep.fs_path) for stage in repo.index.stages for dep in stage.deps if dep.protocol == "local"
            }
    except DvcException as error:
        raise HallmarkError(str(error), where=str(folder), fix="dvc status") from error
    for source in sources:
        if source.is_relative_to(folder) and not any(source.is_relative_to(out) for out in outputs):
            _fill(root / source.relative_to(folder), source, set(outputs))


def _fill(original: Path, source: Path, outputs: set[Path]) -> None:
    """Link what is missing of an untracked source: it may be large, and it is only read."""
    files = [original] if original.is_file() else [path for path in original.rglob("*") if path.is_file()]
    for file in files:
        target = source / file.relative_to(original) if original.is_dir() else source
        if target.exists() or any(target.is_relative_to(out) for out in outputs) or "__pycache__" in target.parts:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.hardlink_to(file)
        except OSError:  # another file system
            shutil.copy2(file, target)


def _forget_old(root: Path, worktrees: Path) -> None:
    """Remove all but the newest worktrees that no flow builds in. Their outputs stay in DVC's cache."""
    folders = sorted((path for path in worktrees.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
    for folder in folders[: -KEPT + 1]:
        with folder.with_suffix(".lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(folder)
            folder.with_suffix(".lock").unlink()
    _git(root, "worktree", "prune")


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source, target, follow_symlinks=False)


def _git(folder: Path, *arguments: str) -> str:
    identity = {"GIT_COMMITTER_NAME": "hallmark", "GIT_COMMITTER_EMAIL": "hallmark@localhost"}
    identity |= {name.replace("COMMITTER", "AUTHOR"): value for name, value in identity.items()}
    environment = {**identity, **os.environ}  # `stash create` makes a commit, which needs a name
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=True
        )
    except FileNotFoundError:
        raise HallmarkError("git is not installed", fix="install git") from None
    except subprocess.CalledProcessError as error:
        raise HallmarkError(error.stderr.strip(), where=f"git {' '.join(arguments)}") from error
    return done.stdout.strip("\n")
