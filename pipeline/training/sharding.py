"""Weights, gradients and optimizer states cut into parts, one for each rank.

This is torch's FSDP2 (Zhao et al. 2023, arXiv:2304.11277).

    full      over all ranks
    hybrid    over the ranks of a node, and every node holds all parts: only gradients, of 1 / parts, go between nodes

A block is the unit: its weights are put together on every rank when they are needed, and its gradients are added up and
cut again. A part is a DTensor; optimizers change it in place. What torch does between the ranks is exact but for the
order of additions, with one exception: blocks gather their weights in the run's precision. In bfloat16 that rounds the
weights of norms, too, which autocast leaves alone.

Functions on a whole model are called by all ranks together, since they gather.
"""

import logging
import os
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.common.errors import HallmarkError
from pipeline.model.block import Block
from pipeline.training.distributed import Ranks

SHARD, REPLICATE = "shard", "replicate"  # dimensions of the mesh of ranks


def count_parts(sharding: str, ranks: Ranks) -> int:
    """How many parts the weights are cut into: 1 without sharding.

    Raises:
        HallmarkError: nodes do not have the same number of ranks.
    """
    if sharding == "none" or ranks.size == 1:
        return 1
    if sharding == "full":
        return ranks.size
    here = int(os.environ.get("LOCAL_WORLD_SIZE", ranks.size))
    if ranks.size % here:
        raise HallmarkError(
            f"{ranks.size} ranks are not as many on every node; here are {here}",
            where="params.yaml: pretrain.sharding",
            fix="start as many on each, or set it to full",
        )
    return here


def describe_sharding(sharding: str, ranks: Ranks) -> dict[str, str]:
    """How the weights are spread, as it is announced; nothing where each rank holds all as it was asked to."""
    if sharding == "none":
        return {}
    parts = count_parts(sharding, ranks)
    alone = " (there is only one rank)" if ranks.size == 1 else ""
    return {"sharding": f"{sharding}: weights, gradients and optimizer in {parts} parts, on {ranks.size} ranks{alone}"}


def shard_model(model: nn.Module, sharding: str, ranks: Ranks, precision: torch.dtype) -> None:
    """Cut the weights into parts, in place, and bring them to the ranks' device, a block at a time.

    Args:
        model: the same on all ranks, in float32 or float64.
        sharding: none, full or hybrid.
        ranks: that train together. One alone keeps the model as it is.
        precision: of matrix products; blocks gather their weights in it.
    """
    parts = count_parts(sharding, ranks)
    if sharding == "none" or ranks.size == 1:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import (
        FSDPModule,
        MixedPrecisionPolicy,
        fully_shard,
        register_fsdp_forward_method,
    )

    shape, names = ((parts,), (SHARD,)) if sharding == "full" else ((ranks.size // parts, parts), (REPLICATE, SHARD))
    mesh = init_device_mesh(ranks.device.type, shape, mesh_dim_names=names)
    low = MixedPrecisionPolicy(precision, torch.float32, cast_forward_inputs=False)
    policy = low if precision != torch.float32 else MixedPrecisionPolicy()
    for module in list(model.modules()):
        if isinstance(module, Block):
            fully_shard(module, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh)
    for module in model.modules():
        if isinstance(module, FSDPModule):  # add gradients up; torch would take their mean
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    if ranks.device.type == "cpu":  # every rank would say that Gloo gathers more of a matrix than Muon asks for
        logging.getLogger("torch.distributed.tensor._collective_utils").setLevel(logging.ERROR)
    for method in ("hidden_states", "decode"):  # the loss calls these, not `forward`
        register_fsdp_forward_method(model, method)


def is_part(tensor: Tensor) -> bool:
    """Whether this is a DTensor: told without importing the class, which takes a second that most runs can save."""
    return hasattr(tensor, "to_local")


def is_sharded(model: nn.Module) -> bool:
    return any(is_part(parameter) for parameter in model.parameters())


def own_part(tensor: Any) -> Tensor:
    """What this rank holds of a tensor, sharing its memory: all of it if it is not sharded."""
    return tensor.to_local() if is_part(tensor) else tensor


def whole(tensor: Any) -> Tensor:
    """The tensor put together from the parts of all ranks; itself if it is not sharded."""
    return tensor.full_tensor() if is_part(tensor) else tensor


def part_like(value: Tensor, like: Any) -> Tensor:
    """What this rank holds of a whole tensor that is cut as `like` is; `value` itself if `like` is not sharded."""
    if not is_part(like) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    part = distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)  # None: nothing is sent
    return part.clone()


def own_parameters(model: Any) -> dict[str, Tensor]:
    """The parameters by name, as this rank holds them, also after a validation, which leaves some of them gathered."""
    if is_sharded(model):
        model.reshard()
    return dict(model.named_parameters())


def own_gradients(parameters: Iterable[Tensor]) -> list[Tensor]:
    """The gradients that there are, as this rank holds them."""
    return [own_part(parameter.grad) for parameter in parameters if parameter.grad is not None]


def whole_weights(model: nn.Module, keep: bool = True) -> dict[str, Tensor]:
    """The whole parameters by name on the CPU, contiguous; without `keep` only take part in gathering them."""
    gathered: dict[str, Tensor] = {}
    for name, parameter in own_parameters(model).items():
        weight = whole(parameter.detach())
        if keep:
            gathered[name] = weight.cpu().contiguous()
    return gathered


def sum_over_parts(parameters: Iterable[Tensor], value: Tensor) -> Tensor:
    """The sum of what each rank found in its parts, the same bits on all; `value` itself if nothing is sharded."""
    part: Any = next(filter(is_part, parameters), None)
    if part is None:
        return value
    mesh = part.device_mesh
    dist.all_reduce(value, group=mesh.get_group(SHARD))
    if mesh.ndim == 2:  # nodes may have added in another order, and would drift apart
        dist.all_reduce(value, dist.ReduceOp.MAX, group=mesh.get_group(REPLICATE))
    return value


def on_whole_matrices(function: Callable[[Tensor], Tensor], matrices: Any) -> Tensor:
    """`function` of matrices (N, rows, columns) that may be sharded by rows, cut as they are.

    It is given whole ones: each rank gets N / parts of them, does these, and sends the rows back.
    """
    if not is_part(matrices):
        return function(matrices)
    from torch.distributed.tensor import DTensor, Shard

    mesh, cut = matrices.device_mesh, matrices.placements
    mine = matrices.redistribute(placements=[*cut[:-1], Shard(0)])
    done = DTensor.from_local(
        function(mine.to_local()), mesh, mine.placements, run_check=False, shape=mine.shape, stride=mine.stride()
    )
    return done.redistribute(placements=cut)
