"""What a rebuild has to do: DVC's own graph, with what DVC says is stale. No second graph, and no Prefect here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo

from pipeline.common.errors import HallmarkError


@dataclass(frozen=True)
class Step:
    """One stage of `dvc.yaml`, as it stands before the rebuild."""

    name: str  # as `dvc repro` takes it: `pretrain`, `finetune@library`
    upstream: tuple[str, ...]  # the stages whose outputs it reads, sorted
    gpu: bool  # `meta: {gpu: true}`
    changes: tuple[str, ...]  # why it is stale; empty if it is not
    metrics: tuple[Path, ...]  # its metrics files, relative to the root

    @property
    def stale(self) -> bool:
        return bool(self.changes)


def make_plan(root: Path | str = ".") -> list[Step]:
    """Ask DVC once for the graph and for what is stale.

    Returns:
        The stages in the order of `dvc.yaml`, moved only so that each comes after its upstream.

    Raises:
        HallmarkError: DVC cannot read the project or its dependencies.
    """
    import networkx

    root = Path(root).resolve()
    try:
        with Repo(str(root), _wait_for_lock=True) as repo:
            graph, stages = repo.index.graph, repo.index.stages  # `status` forgets the index
            status = repo.status()
            position = {stage: number for number, stage in enumerate(stages)}
            ordered = networkx.lexicographical_topological_sort(graph.reverse(), key=position.__getitem__)
            return [_step(stage, graph, status, root) for stage in ordered]
    except DvcException as error:
        raise HallmarkError(str(error), where=str(root / "dvc.yaml"), fix="dvc status") from error


def _step(stage: Any, graph: Any, status: Mapping[str, Sequence[Any]], root: Path) -> Step:
    return Step(
        name=_name(stage, root),
        upstream=tuple(sorted(_name(other, root) for other in graph.successors(stage))),
        gpu=bool((stage.meta or {}).get("gpu")),
        changes=tuple(explain_changes(status.get(stage.addressing, ()))),
        metrics=tuple(Path(out.fs_path).relative_to(root) for out in stage.outs if out.metric),
    )


def _name(stage: Any, root: Path) -> str:
    """The name that `dvc repro` takes at the root; DVC's own `addressing` depends on the working directory."""
    file = Path(stage.path).relative_to(root).as_posix()
    name = getattr(stage, "name", None)
    if not name:  # a .dvc file
        return file
    return name if file == "dvc.yaml" else f"{file}:{name}"


def explain_changes(status: Sequence[Any]) -> list[str]:
    """DVC's status of one stage as sentences: [{"changed deps": {"a.csv": "modified"}}] -> ["a.csv modified"]."""
    sentences: list[str] = []
    for entry in status:
        if isinstance(entry, str):  # "changed command", "always changed"
            sentences.append(entry)
            continue
        for changes in entry.values():
            for path, change in changes.items():
                if isinstance(change, str):
                    sentences.append(f"{path} {change}")
                else:  # params
                    sentences += [f"{path}: {key} {what}" for key, what in change.items()]
    return sentences
