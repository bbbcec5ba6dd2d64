"""Training state in one safetensors file: written to a temporary name, synced, renamed.

Tensors: `model.*`, `optimizer.*`, `random.*` and, once there are some, `best.*`. The header holds the rest as JSON.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.common.errors import HallmarkError
from pipeline.common.files import atomic_path, canonical_json
from pipeline.model.weights import load_weights, named_weights
from pipeline.training.optimizers import Optimizers

FILE = "checkpoint.safetensors"


@dataclass
class Progress:
    """Where a training stands, beside its tensors."""

    step: int = 0  # optimizer steps done
    batches: dict[str, Any] | None = None  # state of the data iterator after the last step
    best_value: float | None = None
    best_step: int | None = None
    validations_without_better: int = 0
    finished: bool = False


def save_checkpoint(
    folder: Path, model: nn.Module, optimizers: Optimizers, progress: Progress, best: dict[str, Tensor] | None
) -> None:
    """Replace the folder's checkpoint. A crash or a full disk on the way leaves the old one whole."""
    parts = {
        "model": named_weights(model),
        "optimizer": {name: value.cpu().contiguous() for name, value in optimizers.state_tensors().items()},
        "random": random_state(),
        "best": best or {},
    }
    tensors = {f"{part}.{name}": value for part, named in parts.items() for name, value in named.items()}
    header = {"progress": canonical_json(vars(progress)), "torch": torch.__version__}
    with atomic_path(folder / FILE) as temporary:
        save_file(tensors, temporary, metadata=header)


def load_checkpoint(
    folder: Path, model: nn.Module, optimizers: Optimizers
) -> tuple[Progress, dict[str, Tensor] | None] | None:
    """Restore model, optimizers and random state; None where there is no checkpoint.

    Raises:
        HallmarkError: the file is damaged, or was written by another version of torch, whose bits may differ.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise HallmarkError(f"this checkpoint is damaged: {error}", where=str(path), fix=f"rm {path}") from error
    if header["torch"] != torch.__version__:
        raise HallmarkError(
            f"torch {header['torch']} wrote this checkpoint and {torch.__version__} is installed: the bits may differ",
            where=str(path),
            fix=f"rm {path} to start over, or install torch {header['torch']}",
        )
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "random": {}, "best": {}}
    for flat_name, value in tensors.items():
        part, _, name = flat_name.partition(".")
        parts[part][name] = value
    load_weights(model, parts["model"])
    optimizers.load_state_tensors(parts["optimizer"])
    restore_random_state(parts["random"])
    return Progress(**json.loads(header["progress"])), parts["best"] or None


def random_state() -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: dict[str, Tensor]) -> None:
    torch.set_rng_state(state["cpu"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"])
