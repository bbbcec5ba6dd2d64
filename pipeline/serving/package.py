"""The package of a model that can be served: weights, tokenizer and configuration, with how it is called.

    model.safetensors, tokenizer.json, config.json   as fine-tuning left them
    signature.json                                   what goes in and what comes out
    input_example.json                               a request that works
    package.json                                     the sha256 of each file above, and "hash" over all of them

Same model, same bytes: the hash is the model's identity in every registry.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.common.errors import HallmarkError
from pipeline.common.files import atomic_path, read_json, sha256_file, sha256_json, write_json
from pipeline.serving.kinds import Served, find_served

MODEL_FILES = ("model.safetensors", "tokenizer.json", "config.json")
SIGNATURE, INPUT_EXAMPLE, MANIFEST = "signature.json", "input_example.json", "package.json"
FORMAT = 1


@dataclass(frozen=True)
class Package:
    """A package whose files are as they were written.

    Attributes:
        folder: where it lies.
        hash: sha256 over the names and hashes of its files.
        kind: of task.
        labels: the classes, in the order of the probabilities; or those of spans; empty for kinds without labels.
        pairs: whether it reads pairs of texts.
    """

    folder: Path
    hash: str
    kind: str
    labels: tuple[str, ...]
    pairs: bool = False

    @property
    def served(self) -> Served:
        return find_served(self.kind, self.pairs)

    @property
    def signature(self) -> dict[str, Any]:
        return read_json(self.folder / SIGNATURE)

    @property
    def input_example(self) -> list[Any]:
        return read_json(self.folder / INPUT_EXAMPLE)["inputs"]


def write_package(model: Path | str, folder: Path | str, examples: list[Any]) -> Package:
    """Make the package of a fine-tuned model; the manifest comes last, so that a torn package has none.

    Args:
        model: folder of the fine-tuned model, as `save_checkpoint_folder` wrote it.
        folder: where the package goes; what lay there is replaced.
        examples: requests of the input example.

    Raises:
        HallmarkError: a file of the model is missing.
    """
    model, folder = Path(model), Path(folder)
    if missing := [name for name in MODEL_FILES if not (model / name).exists()]:
        raise HallmarkError(f"this folder lacks {', '.join(missing)}", where=str(model), fix="dvc repro")
    shutil.rmtree(folder, ignore_errors=True)
    for name in MODEL_FILES:
        with atomic_path(folder / name) as temporary:
            shutil.copyfile(model / name, temporary)
    task = _task(folder)
    write_json(folder / SIGNATURE, _signature(*task))
    write_json(folder / INPUT_EXAMPLE, {"inputs": examples})
    files = {name: sha256_file(folder / name) for name in (*MODEL_FILES, SIGNATURE, INPUT_EXAMPLE)}
    write_json(folder / MANIFEST, {"format": FORMAT, "files": files, "hash": sha256_json(files)})
    return Package(folder, sha256_json(files), *task)


def read_package(folder: Path | str) -> Package:
    """Open a package after checking every byte of it.

    Raises:
        HallmarkError: it is missing, torn, or changed since it was made; names every such file.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).exists():
        raise HallmarkError("this folder holds no packaged model", where=str(folder), fix="dvc repro")
    manifest = read_json(folder / MANIFEST)
    files: dict[str, str] = manifest["files"]
    changed = [n for n, digest in files.items() if not (folder / n).exists() or sha256_file(folder / n) != digest]
    if sha256_json(files) != manifest["hash"]:
        changed.append(MANIFEST)
    if changed:
        raise HallmarkError(
            f"changed since it was packaged: {', '.join(sorted(changed))}",
            where=str(folder),
            fix=f"dvc checkout --force {folder.as_posix()}",
        )
    return Package(folder, manifest["hash"], *_task(folder))


def _task(folder: Path) -> tuple[str, tuple[str, ...], bool]:
    task = read_json(folder / "config.json")["task"]
    return task["kind"], tuple(task.get("labels", ())), task.get("pairs", False)


def _signature(kind: str, labels: tuple[str, ...], pairs: bool) -> dict[str, Any]:
    """What a request holds and an answer gives, readable without any library."""
    served = find_served(kind, pairs)
    return {"inputs": served.inputs, "outputs": served.outputs(list(labels))}
