"""The stage key: one hash of all that decides a stage's outputs.

It is the stage's `dvc.lock` entry less the outs: name, command, md5 of each dependency and the values of
its params. So it is the same before and after the run, and on every machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline.common.files import sha256_json


def decisive(name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """What of a `dvc.lock` entry decides the outputs: {"name", "cmd", "deps": {path: md5}, "params": {...}}."""
    return {
        "name": name,
        "cmd": entry["cmd"],
        "deps": {dep["path"]: dep["md5"] for dep in entry.get("deps", [])},
        "params": dict(entry.get("params", {}).get("params.yaml", {})),
    }


def stage_key(description: Mapping[str, Any]) -> str:
    """The sha256 of a stage's description, as `decisive` or `describe_stage` give it."""
    return sha256_json(dict(description))


def describe_stage(name: str, root: Path | str = ".") -> dict[str, Any]:
    """Describe a stage as the working tree is now. Raises DVC's errors for an unknown stage or missing dependency."""
    from dvc.repo import Repo
    from dvc.stage.serialize import to_single_stage_lockfile

    with Repo(str(root), _wait_for_lock=True) as repo:
        with repo.lock:  # DVC does not write dvc.lock atomically: another stage that ends now would leave half a file
            stage = repo.stage.load_one(path=str(Path(root) / "dvc.yaml"), name=name)
        stage.save_deps()
        return decisive(name, to_single_stage_lockfile(stage))


@dataclass(frozen=True)
class StageState:
    """How one stage of `dvc.yaml` stands.

    Attributes:
        name: as `dvc repro` takes it.
        description: see `describe_stage`; None while a dependency is missing.
        current: whether `dvc repro` would leave it alone.
    """

    name: str
    description: dict[str, Any] | None
    current: bool


def survey_stages(root: Path | str = ".") -> list[StageState]:
    """Every stage of `dvc.yaml`, each after those it depends on.

    A stage is current if its `dvc.lock` entry describes the working tree as it is, its outputs are there, and
    its upstream stages are current, too.
    """
    import networkx
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.stage.serialize import to_single_stage_lockfile

    states: dict[str, StageState] = {}
    with Repo(str(root), _wait_for_lock=True) as repo:
        with repo.lock:  # as in `describe_stage`
            locked, graph = locked_stages(root), repo.index.graph
        position = {stage: number for number, stage in enumerate(repo.index.stages)}
        for stage in networkx.lexicographical_topological_sort(graph.reverse(), position.__getitem__):
            name = stage.addressing
            try:
                stage.save_deps()
                description = decisive(name, to_single_stage_lockfile(stage))
            except DvcException:
                description = None
            current = (
                name in locked
                and description == decisive(name, locked[name])
                and all(states[other.addressing].current for other in graph.successors(stage))
                and all(out.exists for out in stage.outs)
            )
            states[name] = StageState(name, description, current)
    return list(states.values())


def lock_hash(root: Path | str = ".") -> str | None:
    """One hash over `dvc.lock`: what was built, from what, to the last output. None before the first build."""
    locked = locked_stages(root)
    return sha256_json(locked) if locked else None


def locked_stages(root: Path | str = ".") -> dict[str, dict[str, Any]]:
    """The entries of `dvc.lock` by stage name: what was last built here.

    Read as DVC reads it: to PyYAML, whose YAML is 1.1, the number 1e-05 is a text, and the key would be another.
    """
    path = Path(root) / "dvc.lock"
    return dict(_parse_lock(path.read_text(encoding="utf-8"), str(path))) if path.exists() else {}


@lru_cache(maxsize=4)  # a tenth of a second each time
def _parse_lock(text: str, path: str) -> Mapping[str, dict[str, Any]]:
    from dvc.utils.serialize import parse_yaml

    return parse_yaml(text, path).get("stages", {})
