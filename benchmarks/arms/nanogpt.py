"""nanoGPT's training (Karpathy 2022, https://github.com/karpathy/nanoGPT), rebuilt from its published configuration.

At its best setting: matrix products in bfloat16 by autocast, the whole network compiled, fused AdamW. GPT-2's
architecture without biases and dropout: learned positions, LayerNorm, GELU, a tied head, torch's own attention.

Legend: B rows, T positions, D hidden size, H heads, K head dimension, V vocabulary.
"""

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention

from benchmarks.arms.machine import Machine
from benchmarks.synthetic import draw_windows
from benchmarks.turns import Clock


class Layer(nn.Module):
    def __init__(self, width: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads, self.dropout = heads, nn.Dropout(dropout)
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv, self.attention_out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        qkv = self.qkv(self.attention_norm(x_BTD)).chunk(3, dim=-1)
        q_BHTK, k_BHTK, v_BHTK = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in qkv)
        share = self.dropout.p if self.training else 0.0
        y_BHTK = scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, dropout_p=share, is_causal=True)
        x_BTD = x_BTD + self.dropout(self.attention_out(y_BHTK.transpose(1, 2).flatten(2)))
        return x_BTD + self.dropout(self.down(gelu(self.up(self.mlp_norm(x_BTD)))))


class NanoGPT(nn.Module):
    def __init__(
        self, vocab_size: int, context: int, layers: int, width: int, heads: int, tied: bool, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.tokens, self.positions = nn.Embedding(vocab_size, width), nn.Embedding(context, width)
        self.layers = nn.ModuleList(Layer(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)
        self.head = nn.Linear(width, vocab_size, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                residual = name.endswith(("attention_out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * layers) if residual else 0.02)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, ids_BT: Tensor, labels_BT: Tensor) -> Tensor:
        """The mean loss in nats."""
        positions_T = torch.arange(ids_BT.size(1), device=ids_BT.device)
        x_BTD = self.dropout(self.tokens(ids_BT) + self.positions(positions_T))
        for layer in self.layers:
            x_BTD = layer(x_BTD)
        logits_BTV = self.head(self.norm(x_BTD))
        return cross_entropy(logits_BTV.flatten(0, 1), labels_BT.flatten())


class Schedule(NamedTuple):
    """Its learning rates, a linear rise and then a cosine, and the second of Adam's betas."""

    peak: float = 6e-4
    lowest: float = 6e-5
    warmup: int = 2000
    decay: int = 600_000
    beta2: float = 0.95

    def rate(self, step: int) -> float:
        if step < self.warmup:
            return self.peak * (step + 1) / (self.warmup + 1)
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, (step - self.warmup) / (self.decay - self.warmup))))
        return self.lowest + cosine * (self.peak - self.lowest)


def train(clock: Clock, model: NanoGPT, tokens: np.ndarray, rows: int, context: int, machine: Machine) -> None:
    """Train until the clock ends it."""
    steps = training_steps(model, tokens, rows, context, machine, Schedule())
    while True:
        clock.tick()
        next(steps)


def training_steps(
    model: NanoGPT, tokens: np.ndarray, rows: int, context: int, machine: Machine, schedule: Schedule
) -> Iterator[None]:
    """One optimizer step with each `next`."""
    device, precision = machine.device, machine.precision
    model.to(device)
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=schedule.peak, betas=(0.9, schedule.beta2), fused=True)
    network = torch.compile(model) if machine.compiled else model
    ids_BT, labels_BT = draw_windows(tokens, rows, context, device)
    for step in itertools.count():
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
            loss = network(ids_BT, labels_BT)
        ids_BT, labels_BT = draw_windows(tokens, rows, context, device)  # while a GPU is still busy
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield
