"""Causal language modelling: windows of a token shard, the loss, and bits per byte.

Legend: B batch, T positions, V vocabulary.
"""

import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, pad

from pipeline.common.errors import HallmarkError
from pipeline.model.decoder import Decoder
from pipeline.tokenization.shards import TokenShard
from pipeline.training.loop import Batch
from pipeline.training.runtime import Runtime

NO_TARGET = -1  # a label that counts nowhere


class TokenWindows:
    """Global batches of fixed windows over the shard, in a new seeded order each epoch.

    The documents stand one after another, each behind its `bos` token. Every epoch cuts them into windows of
    `context_length` from another offset, so that window borders move.

    Args:
        shard: the training tokens.
        context_length: T.
        batch_tokens: tokens per optimizer step; rounded down to whole windows, at least one.
        micro_batch_tokens: tokens per forward pass, likewise.
        seed: decides the order.

    Raises:
        HallmarkError: the shard is shorter than one window.
    """

    def __init__(
        self, shard: TokenShard, context_length: int, batch_tokens: int, micro_batch_tokens: int | None, seed: int
    ) -> None:
        if len(shard.tokens) < 2 * context_length + 1:
            raise HallmarkError(
                f"{len(shard.tokens)} training tokens are too few for windows of {context_length}",
                where="data/tokens",
                fix="give more text, or lower model.context_length in params.yaml",
            )
        self.tokens, self.context_length, self.seed = shard.tokens, context_length, seed
        self.batch_windows = max(1, batch_tokens // context_length)
        self.micro_windows = max(1, (micro_batch_tokens or batch_tokens) // context_length)
        self.epoch, self.position = 0, 0
        self.starts = self._starts()

    def _starts(self) -> np.ndarray:
        generator = np.random.default_rng([self.seed, self.epoch])
        offset = int(generator.integers(self.context_length))
        starts = np.arange(offset, len(self.tokens) - self.context_length, self.context_length)
        return generator.permutation(starts)

    def load_state(self, state: dict[str, Any]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]
        self.starts = self._starts()

    def __next__(self) -> tuple[list[Batch], dict[str, Any]]:
        starts = [self._next_start() for _ in range(self.batch_windows)]
        size = self.micro_windows
        batches = [self._cut(starts[first : first + size]) for first in range(0, len(starts), size)]
        return batches, {"epoch": self.epoch, "position": self.position}

    def _next_start(self) -> int:
        if self.position == len(self.starts):
            self.epoch, self.position = self.epoch + 1, 0
            self.starts = self._starts()
        self.position += 1
        return int(self.starts[self.position - 1])

    def _cut(self, starts: list[int]) -> Batch:
        windows = np.stack([self.tokens[start : start + self.context_length + 1] for start in starts])
        ids = torch.from_numpy(windows.astype(np.int64))
        return {"input_ids": ids[:, :-1].contiguous(), "labels": ids[:, 1:].contiguous()}


class CausalLoss:
    """The summed cross-entropy of each token's successor, in nats, and the number of target tokens."""

    def __init__(self, runtime: Runtime) -> None:
        self.head_loss = runtime.compiled(summed_head_loss)

    def __call__(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        decoder = cast(Decoder, model)
        labels_BT = batch["labels"]
        x_BTD = decoder.hidden_states(batch["input_ids"])
        return self.head_loss(x_BTD, decoder.lm_head.weight, labels_BT), torch.tensor(labels_BT.numel())


def summed_head_loss(x_BTD: Tensor, head_VD: Tensor, labels_BT: Tensor) -> Tensor:
    logits_BTV = linear(x_BTD, head_VD).float()
    return cross_entropy(logits_BTV.flatten(0, 1), labels_BT.flatten(), reduction="sum")


class BitsPerByte:
    """Validation loss, and bits per byte: comparable across vocabularies.

    Bits per byte is the summed cross-entropy of the targets that stand for text, in bits, over the bytes that
    they stand for; special tokens stand for none. Each window is predicted on its own, without what came before.

    Args:
        shard: the validation tokens.
        token_bytes: int (V,): the bytes that each token stands for.
        context_length: T.
        batch_windows: windows per forward pass.
        device: where the model is.
        most_tokens: measure on the first so many tokens; None measures all.
    """

    def __init__(
        self,
        shard: TokenShard,
        token_bytes: np.ndarray,
        context_length: int,
        batch_windows: int,
        device: torch.device,
        most_tokens: int | None = None,
    ) -> None:
        tokens = torch.from_numpy(np.asarray(shard.tokens[:most_tokens]).astype(np.int64))
        if len(tokens) < 2:
            raise HallmarkError(
                "there is no validation text", where="data/tokens", fix="raise source.validation_share in params.yaml"
            )
        length = min(context_length, len(tokens) - 1)
        windows = (len(tokens) - 1) // length
        self.targets = windows * length
        # Whole batches only, the last one filled up: one shape, so one compilation.
        inputs = tokens[: self.targets].view(windows, length)
        labels = tokens[1 : self.targets + 1].view(windows, length)
        filling = (0, 0, 0, -windows % batch_windows)
        self.inputs, self.labels = pad(inputs, filling, value=0), pad(labels, filling, value=NO_TARGET)
        self.token_bytes = torch.from_numpy(token_bytes.astype(np.int64)).to(device)
        self.batch_windows, self.device = batch_windows, device

    def __call__(self, model: Decoder) -> dict[str, float]:
        """{"loss": nats per target, "bits_per_byte"}; call in eval mode without gradients."""
        nats = torch.zeros((), dtype=torch.float64, device=self.device)
        text_nats, text_bytes = nats.clone(), nats.clone()
        for inputs, labels in zip(
            self.inputs.split(self.batch_windows), self.labels.split(self.batch_windows), strict=True
        ):
            labels_N = labels.to(self.device).flatten()
            logits_NV = model(inputs.to(self.device)).float().flatten(0, 1)
            nats_N = cross_entropy(logits_NV, labels_N, ignore_index=NO_TARGET, reduction="none").double()
            bytes_N = self.token_bytes[labels_N.clamp(min=0)] * (labels_N != NO_TARGET)
            nats += nats_N.sum()
            text_nats += nats_N[bytes_N > 0].sum()
            text_bytes += bytes_N.sum()
        bits = text_nats.item() / math.log(2)
        return {"loss": nats.item() / self.targets, "bits_per_byte": bits / max(text_bytes.item(), 1)}
