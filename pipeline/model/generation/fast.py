"""A private copy of a network for compiled decoding steps: the same modules with other leaves.

At these sizes a step costs what reading the weights and starting kernels costs. On a CPU each linear layer is replaced:
for one row by a product and a sum, which Inductor fuses with all around it into one kernel; for several by oneDNN's
product with weights packed beforehand. Figures are in docs/experiments.md.

Legend: B rows, T positions, I inputs, O outputs.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.common.compiler import find_compiler, prepare_inductor
from pipeline.common.errors import HallmarkError, allowed
from pipeline.model.block import Memory
from pipeline.model.cache import DecoderCache
from pipeline.model.generation.decoding import Step, decoding_step
from pipeline.model.transformer import LanguageHead, Transformer

COMPILE = ("auto", "always", "never")
# Compiling a 6-layer network took about 25 s on 2 cores, and each step then 1 ms instead of 5: it pays for itself after
# about 6,000 steps, from a warm cache of Inductor sooner.
COMPILE_PAYS_FROM_STEPS = 6_000
MOST_SHAPES = 256  # of one network at one number of rows, before torch refuses; there is one for each length of cache


def choose_compile(compile: str, device: torch.device, steps: int) -> tuple[bool, str]:
    """Whether `steps` decoding steps are worth compiling one, and why. The rule looks at no timing.

    Raises:
        HallmarkError: an unknown word, or "always" without a compiler.
    """
    if compile not in COMPILE:
        raise HallmarkError(f"compile: unknown {compile!r}; {allowed(COMPILE)}")
    able = device.type == "cuda" or find_compiler() is not None
    if compile == "always" and not able:
        raise HallmarkError("there is no C++ compiler here", fix="install g++, or compile: auto")
    if compile != "auto":
        return compile == "always", f"{'compiled' if compile == 'always' else 'eager'} (asked for)"
    if not able:
        return False, "eager (no C++ compiler here)"
    size = f"{steps:,} steps at most, compiling pays from {COMPILE_PAYS_FROM_STEPS:,}"
    return steps >= COMPILE_PAYS_FROM_STEPS, f"{'compiled' if steps >= COMPILE_PAYS_FROM_STEPS else 'eager'} ({size})"


def compiled_step(model: Transformer, rows: int) -> Step:
    """A compiled form of `decoding_step` for batches of this many rows; shapes are compiled when they first come."""
    prepare_inductor()
    network = fast_copy(model, rows)
    limits: Any = {"isolate_recompiles": True, "recompile_limit": MOST_SHAPES}  # its annotations lack these two
    compiled: Callable[..., Tensor] = torch.compile(decoding_step, fullgraph=True, dynamic=False, **limits)

    def step(ids_B1: Tensor, positions_B1: Tensor, memory: Memory | None, cache: DecoderCache) -> Tensor:
        return compiled(network, ids_B1, positions_B1, memory, cache)

    return step


def fast_copy(model: Transformer, rows: int) -> Transformer:
    """The network with leaves for decoding `rows` rows; parameters that are not packed are shared, not copied."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    network = copy.deepcopy(model, shared)
    if model.embedding.tokens.weight.device.type != "cpu":
        return network
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Linear):
                setattr(module, name, _fast_linear(child.weight, child.bias, rows))
            elif isinstance(child, LanguageHead):
                setattr(module, name, FastHead(child, rows))
    return network


class FastHead(nn.Module):
    """A language head whose matrix is a fast one."""

    def __init__(self, head: LanguageHead, rows: int) -> None:
        super().__init__()
        self.head, self.project = head, _fast_linear(head.weight, head.bias, rows)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.project(self.head.features(x_BTD))


def _fast_linear(weight_OI: Tensor, bias_O: Tensor | None, rows: int) -> nn.Module:
    if rows == 1:
        return SummedLinear(weight_OI, bias_O)
    return PackedLinear(weight_OI, bias_O, rows) if _can_pack(weight_OI.dtype) else PlainLinear(weight_OI, bias_O)


def _can_pack(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


class PlainLinear(nn.Module):
    """x W^T + b, as `nn.Linear`."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None) -> None:
        super().__init__()
        self.weight, self.bias = weight_OI, bias_O

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


class SummedLinear(PlainLinear):
    """The same for one vector, written as a sum: each weight is read once, and added up in float32."""

    def forward(self, x: Tensor) -> Tensor:
        y_O = (self.weight.float() * x.float().flatten()).sum(dim=-1)
        if self.bias is not None:
            y_O = y_O + self.bias
        return y_O.to(x.dtype).view(*x.shape[:-1], -1)


class PackedLinear(nn.Module):
    """The same with weights in the order in which oneDNN reads them for products with `rows` rows."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, rows: int) -> None:
        super().__init__()
        self.outputs, self.bias = weight_OI.size(0), bias_O
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight_OI.detach(), rows)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.ops.hallmark.packed_linear(x.flatten(0, -2), self.packed, self.bias, self.outputs)
        return y.unflatten(0, x.shape[:-1])


def _packed_linear(x_BI: Tensor, packed: Tensor, bias_O: Tensor | None, outputs: int) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x_BI, packed, bias_O, "none", [], "")


# Inductor takes oneDNN's own operator only with weights frozen into its code, which no cache keeps; hence one of ours.
_LIBRARY = torch.library.Library("hallmark", "DEF")
_LIBRARY.define("packed_linear(Tensor x, Tensor packed, Tensor? bias, int outputs) -> Tensor")
for _key in ("CPU", "MkldnnCPU"):
    _LIBRARY.impl("packed_linear", _packed_linear, _key)
_LIBRARY.impl("packed_linear", lambda x_BI, packed, bias_O, outputs: x_BI.new_empty(x_BI.size(0), outputs), "Meta")
