"""nanoGPT's training (Karpathy 2022, https://github.com/karpathy/nanoGPT), rebuilt from its published configuration.

At its best setting: matrix products in bfloat16 by autocast, the whole network compiled, fused AdamW. GPT-2's
architecture without biases and dropout: learned positions, LayerNorm, GELU, a tied head, torch's own attention.

Legend: B rows, T positions, D hidden size, H heads, K head dimension, V vocabulary.
"""

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu, scaled_dot_product_attention

from benchmarks.arms.machine import Machine
from benchmarks.synthetic import draw_windows
from benchmarks.turns import Clock

PEAK_RATE, LOWEST_RATE, WARMUP, DECAY = 6e-4, 6e-5, 2000, 600_000


class Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv, self.attention_out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        qkv = self.qkv(self.attention_norm(x_BTD)).chunk(3, dim=-1)
        q_BHTK, k_BHTK, v_BHTK = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in qkv)
        y_BHTK = scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)
        x_BTD = x_BTD + self.attention_out(y_BHTK.transpose(1, 2).flatten(2))
        return x_BTD + self.down(gelu(self.up(self.mlp_norm(x_BTD))))


class NanoGPT(nn.Module):
    def __init__(self, vocab_size: int, context: int, layers: int, width: int, heads: int, tied: bool) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab_size, width), nn.Embedding(context, width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
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
        x_BTD = self.tokens(ids_BT) + self.positions(torch.arange(ids_BT.size(1), device=ids_BT.device))
        for layer in self.layers:
            x_BTD = layer(x_BTD)
        logits_BTV = self.head(self.norm(x_BTD))
        return cross_entropy(logits_BTV.flatten(0, 1), labels_BT.flatten())


def learning_rate(step: int) -> float:
    """A linear rise, then a cosine."""
    if step < WARMUP:
        return PEAK_RATE * (step + 1) / (WARMUP + 1)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, (step - WARMUP) / (DECAY - WARMUP))))
    return LOWEST_RATE + cosine * (PEAK_RATE - LOWEST_RATE)


def train(clock: Clock, model: NanoGPT, tokens: np.ndarray, rows: int, context: int, machine: Machine) -> None:
    """Train until the clock ends it."""
    device, precision = machine.device, machine.precision
    model.to(device)
    matrices = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.95), fused=True)
    network = torch.compile(model) if machine.compiled else model
    ids_BT, labels_BT = draw_windows(tokens, rows, context, device)
    step = 0
    while True:
        clock.tick()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        with torch.autocast(device.type, dtype=precision, enabled=precision != torch.float32):
            loss = network(ids_BT, labels_BT)
        ids_BT, labels_BT = draw_windows(tokens, rows, context, device)  # while a GPU is still busy
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
