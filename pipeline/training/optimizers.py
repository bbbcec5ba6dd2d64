"""Optimizers, which parameter goes to which, and the learning-rate schedule."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.common.params import Finetune, Pretrain
from pipeline.model.transformer import Transformer
from pipeline.training.adapting import layer_rate_factors
from pipeline.training.sharding import on_whole_matrices, part_like

Schedule = Callable[[int], float]


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised by Newton-Schulz (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

    Like `torch.optim.Muon`, but all matrices of one shape are orthogonalised in one batched product: a
    4-layer network has 28 small matrices, whose single products keep the cores waiting. A test compares the two.

    Args:
        params: 2-D weights only, or groups of them.
        lr: the update has the same root-mean-square size for every shape: scaled by sqrt(max(1, rows / columns)).
        momentum: Nesterov momentum.
        weight_decay: decoupled.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[Tensor]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault(parameter.shape, []).append(parameter)
            for shape, parameters in by_shape.items():
                self._step_shape(shape, parameters, group)

    def _step_shape(self, shape: torch.Size, parameters: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        buffers = [self._buffer(parameter) for parameter in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, buffers, group["momentum"])
        orthogonal = on_whole_matrices(orthogonalise, torch.stack(updates)).to(parameters[0].dtype)
        rate = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, orthogonal.unbind(), alpha=-rate)

    def _buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]  # type: ignore[no-any-return]


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest (semi-)orthogonal matrices, roughly: singular values end up within about 0.7 to 1.2.

    A quintic Newton-Schulz iteration in bfloat16, with Jordan's coefficients.

    Args:
        matrices: (N, rows, columns) float32.
        steps: iterations.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrices.bfloat16()
    tall = x.size(-2) > x.size(-1)
    if tall:
        x = x.mT.contiguous()  # what is added to it lies so
    x = x / (x.norm(dim=-1, keepdim=True).norm(dim=-2, keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Optimizers:
    """Several optimizers that step together, under one schedule."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer], schedule: Schedule) -> None:
        self.optimizers = list(optimizers)
        self.schedule = schedule
        self.peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers]

    def step(self, step: int) -> None:
        """Update the weights at the rate of `step` (counted from 0) and clear the gradients."""
        for optimizer, peaks in zip(self.optimizers, self.peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * self.schedule(step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def state_tensors(self) -> dict[str, Tensor]:
        """Every state tensor under a flat name: OPTIMIZER.PARAMETER.STATE."""
        return {
            f"{number}.{index}.{name}": value
            for number, optimizer in enumerate(self.optimizers)
            for index, state in optimizer.state_dict()["state"].items()
            for name, value in state.items()
        }

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take up whole tensors, of which each rank keeps its part where the parameters are sharded."""
        for number, optimizer in enumerate(self.optimizers):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            state: dict[int, dict[str, Tensor]] = {}
            for flat_name, value in tensors.items():
                owner, index, name = flat_name.split(".")
                if int(owner) == number:
                    state.setdefault(int(index), {})[name] = part_like(value, parameters[int(index)])
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def pretraining_optimizers(model: nn.Module, settings: Pretrain, schedule: Schedule) -> Optimizers:
    """Muon for the matrices inside the blocks and AdamW for the rest, or AdamW for all."""
    matrices, tables, vectors = split_parameters(model)
    given: dict[str, Any] = {"lr": settings.learning_rate, "betas": (0.9, 0.95), "eps": 1e-8, "fused": True}
    if settings.optimizer == "adamw":
        groups = [
            {"params": matrices, "weight_decay": settings.weight_decay},
            {"params": tables + vectors, "weight_decay": 0.0},
        ]
        return Optimizers([torch.optim.AdamW(groups, **given)], schedule)
    muon = Muon(matrices, lr=settings.muon_learning_rate, weight_decay=settings.weight_decay)
    return Optimizers([muon, torch.optim.AdamW(tables + vectors, weight_decay=0.0, **given)], schedule)


def finetuning_optimizers(
    body: Transformer, head: nn.Module, settings: Finetune, schedule: Schedule, experts: Iterable[nn.Module] = ()
) -> Optimizers:
    """AdamW for all that learns: a low rate for the pretrained body, by layers if that is asked for, a higher one for
    adapters in it, one for the new head, and one for experts beside it; weight decay on matrices only, and on none of
    the experts. With `optimizer: muon`, and where all of the body learns, Muon for the matrices of its blocks.
    """
    rate = settings.lora_learning_rate if settings.adapt == "lora" else settings.learning_rate
    factors = layer_rate_factors(body, settings.layer_rate_decay)
    groups, of_muon = [], []
    for part, peak in ((body, rate), (head, settings.head_learning_rate)):
        matrices, tables, vectors = split_parameters(part)
        if part is body and settings.optimizer == "muon" and settings.adapt == "full":
            of_muon = _by_factor(matrices, factors, settings.muon_learning_rate, settings.weight_decay)
            matrices = []
        groups += _by_factor(matrices + tables, factors, peak, settings.weight_decay)
        groups += _by_factor(vectors, factors, peak, 0.0)
    if of_experts := [parameter for expert in experts for parameter in expert.parameters()]:
        groups += _by_factor(of_experts, {}, settings.ngram_learning_rate, 0.0)
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, fused=True)]
    return Optimizers([*([Muon(of_muon, settings.muon_learning_rate)] if of_muon else []), *optimizers], schedule)


def _by_factor(
    parameters: Sequence[Tensor], factors: Mapping[Tensor, float], peak: float, decay: float
) -> list[dict[str, Any]]:
    """Groups of an optimizer: what learns of `parameters`, by what the peak rate of each is multiplied by."""
    groups = []
    for factor in sorted({factors.get(each, 1.0) for each in parameters}, reverse=True):
        alike = [each for each in parameters if each.requires_grad and factors.get(each, 1.0) == factor]
        groups.append({"params": alike, "lr": peak * factor, "weight_decay": decay})
    return groups


def split_parameters(model: nn.Module) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """(matrices of the blocks, embedding and head tables, vectors); every parameter is in exactly one."""
    matrices: list[Tensor] = []
    tables: list[Tensor] = []
    vectors: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            vectors.append(parameter)
        elif "blocks." in name:
            matrices.append(parameter)
        else:
            tables.append(parameter)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in matrices + tables + vectors) == total
    return matrices, tables, vectors


def make_schedule(settings: Pretrain, steps: int) -> Schedule:
    """The schedule that params.yaml names."""
    if settings.schedule == "cosine":
        return cosine(steps, settings.warmup_share)
    return trapezoid(steps, settings.warmup_share, settings.decay_share)


def trapezoid(steps: int, warmup_share: float, decay_share: float) -> Schedule:
    """Rise linearly, stay at 1, fall linearly towards 0 (warm-up, stable, decay)."""
    warmup, decay = max(1, round(steps * warmup_share)), max(1, round(steps * decay_share))

    def factor(step: int) -> float:
        return min(1.0, (step + 1) / warmup, (steps - step) / decay)

    return factor


def cosine(steps: int, warmup_share: float) -> Schedule:
    """Rise linearly, then fall along half a cosine towards 0 (Loshchilov and Hutter 2017, arXiv:1608.03983)."""
    warmup = max(1, round(steps * warmup_share))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return (1 + math.cos(math.pi * (step - warmup + 1) / (steps - warmup + 1))) / 2

    return factor
