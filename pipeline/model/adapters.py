"""Low-rank adapters (LoRA; Hu et al. 2021, arXiv:2106.09685): a matrix stays as it is, and a small product beside it
learns. Once it has learned, the product is added to the matrix, and the network is as large and as fast as before.

adapters.safetensors   what learned, in its own precision; as metadata, under the key "adapters", JSON of rank, alpha,
                       targets, and the sha256 of the base weights, without which the file says nothing

Legend: x (..., D) to y (..., E), R rank.
"""

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import get_args

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import linear

from pipeline.common.errors import HallmarkError, allowed
from pipeline.common.files import atomic_path, canonical_json
from pipeline.common.parts import Matrix
from pipeline.model.attention import Attention
from pipeline.model.weights import load_weights, named_weights

ADAPTERS = "adapters.safetensors"


class LowRankLinear(nn.Module):
    """y = W x + b + (alpha / R) B A x, where only A and B learn.

    B is zero at first, so that the network begins as the one it adapts. A is normal with the deviation 1 / sqrt(D).

    Args:
        linear: holds W (E, D) and b; used as it is, and frozen.
        rank: R.
        alpha: scales the product, so that another rank needs no other learning rate.
    """

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.scale = alpha / rank
        weight = linear.weight.detach()
        self.lora_a = nn.Parameter(weight.new_empty(rank, linear.in_features))
        self.lora_b = nn.Parameter(weight.new_zeros(linear.out_features, rank))
        nn.init.normal_(self.lora_a, std=linear.in_features**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + linear(linear(x, self.lora_a), self.lora_b) * self.scale

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The layer with W + (alpha / R) B A for its weight, rounded once, after a sum in float64."""
        product = self.lora_b.double() @ self.lora_a.double() * self.scale
        self.linear.weight.copy_(self.linear.weight.double() + product)
        return self.linear


def freeze(body: nn.Module) -> None:
    """Take a network as it is: no parameter learns, and its dropout is off in training, too."""
    body.requires_grad_(False)
    for module in body.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, Attention):
            module.dropout_share = 0.0


def add_adapters(body: nn.Module, rank: int, alpha: float, targets: Collection[str]) -> None:
    """Freeze the parameters of `body` and put an adapter on every linear layer that has a name in `targets`.

    Dropout stays on, since what the adapters read is part of what they learn. They are drawn from torch's generator.

    Raises:
        HallmarkError: no layer has one of these names.
    """
    body.requires_grad_(False)
    found = [name for name, module in body.named_modules() if isinstance(module, nn.Linear)]
    chosen = [name for name in found if name.rpartition(".")[2] in targets]
    if not chosen:
        own = {name.rpartition(".")[2] for name in found}
        raise HallmarkError(
            f"this network has no matrix named {' or '.join(targets)}; "
            + allowed(name for name in get_args(Matrix) if name in own),
            where="params.yaml: finetune.lora_targets",
        )
    for name in chosen:
        layer = body.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        body.set_submodule(name, LowRankLinear(layer, rank, alpha))


def merge_adapters(body: nn.Module) -> None:
    """Put back the layers that `add_adapters` took the place of, with what was learned in their weights."""
    for name, layer in list(_adapted(body)):
        body.set_submodule(name, layer.merged())


def save_adapters(
    path: Path, model: nn.Module, base_sha256: str, rank: int, alpha: float, targets: Collection[str]
) -> None:
    """Write what learned of `model`: adapters and head.

    Args:
        path: of the file.
        model: with adapters in its body.
        base_sha256: of the weights file that the body started from.
        rank, alpha, targets: as `add_adapters` was given them.
    """
    about = {"base_sha256": base_sha256, "rank": rank, "alpha": alpha, "targets": sorted(targets)}
    with atomic_path(path) as temporary:  # one key of metadata: safetensors writes several in any order
        learned = dict(sorted(named_weights(model, frozen=False).items()))
        save_file(learned, temporary, {"adapters": canonical_json(about)})


def load_adapters(path: Path, model: nn.Module, body: nn.Module, base_sha256: str) -> None:
    """Put the adapters of a file on `body`, which is a part of `model` and holds the base weights.

    Raises:
        HallmarkError: they belong to other base weights, or to another network.
    """
    with safe_open(path, "pt") as file:
        about = json.loads((file.metadata() or {}).get("adapters", "{}"))
    if about.get("base_sha256") != base_sha256:
        raise HallmarkError(
            f"these adapters belong to the weights {str(about.get('base_sha256'))[:12]}, not to {base_sha256[:12]}",
            where=str(path),
            fix="take the base that they were trained on, or dvc repro",
        )
    add_adapters(body, about["rank"], about["alpha"], about["targets"])
    load_weights(model, load_file(path), frozen=False)


def _adapted(body: nn.Module) -> Iterator[tuple[str, LowRankLinear]]:
    yield from ((name, module) for name, module in body.named_modules() if isinstance(module, LowRankLinear))
