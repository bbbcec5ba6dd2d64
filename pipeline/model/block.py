"""A block and a stack of blocks: what every family is made of.

Legend: B batch, T query positions, S key positions, D hidden size, H heads, K head dimension.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.model.attention import Attention, Sight, padding_bias, take_places, visible_bias, visible_blocks
from pipeline.model.cache import DecoderCache, KeyValues
from pipeline.model.config import ModelConfig
from pipeline.model.feed_forward import FeedForward
from pipeline.model.norms import NORMS, widen
from pipeline.model.positions import alibi_slopes, relative_buckets, rotary_tables


class Memory(NamedTuple):
    """What an encoder hands to a decoder: its states, and where they are padding (bool, False there)."""

    states_BSD: Tensor
    visible_BS: Tensor | None = None


class Block(nn.Module):
    """One layer: self-attention, cross-attention if there is a memory, feed-forward, each added to the residual stream.

    pre: x + part(norm(x)) (Radford et al. 2019); post: norm(x + part(x)) (Vaswani et al. 2017).
    """

    def __init__(self, config: ModelConfig, cross: bool) -> None:
        super().__init__()
        self.post = config.norm_placement == "post"
        self.attention_norm = make_norm(config)
        self.attention = Attention(config)
        self.cross_attention_norm = make_norm(config) if cross else None
        self.cross_attention = Attention(config) if cross else None
        self.feed_forward_norm = make_norm(config)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x_BTD: Tensor,
        sight: Sight,
        memory_BSD: Tensor | None = None,
        memory_sight: Sight | None = None,
        cache: KeyValues | None = None,
        memory_cache: KeyValues | None = None,
        asked_BR: Tensor | None = None,
    ) -> Tensor:
        """x_BTD, or what stands at `asked_BR`, places in T, (B, R, D)."""

        def attend(y_BTD: Tensor) -> Tensor:
            return self.attention(y_BTD, sight, None, cache, asked_BR)

        x_BTD = self._add(x_BTD, self.attention_norm, attend, asked_BR)
        if self.cross_attention is not None and self.cross_attention_norm is not None and memory_sight is not None:
            across = self.cross_attention
            x_BTD = self._add(
                x_BTD, self.cross_attention_norm, lambda y_BTD: across(y_BTD, memory_sight, memory_BSD, memory_cache)
            )
        return self._add(x_BTD, self.feed_forward_norm, self.feed_forward)

    def _add(
        self, x_BTD: Tensor, norm: nn.Module, part: Callable[[Tensor], Tensor], asked_BR: Tensor | None = None
    ) -> Tensor:
        stream_BTD = x_BTD if asked_BR is None else take_places(x_BTD, asked_BR)
        if self.post:
            return norm(stream_BTD + self.dropout(part(x_BTD)))
        return stream_BTD + self.dropout(part(norm(x_BTD)))


class Stack(nn.Module):
    """The blocks of an encoder or of a decoder, with what their positions add to the scores.

    Args:
        config: shape and parts.
        causal: a decoder's: no position sees a later one.
        cross: blocks look at an encoder's memory, too.
    """

    rope_cos: Tensor
    rope_sin: Tensor
    slopes: Tensor
    is_compiled = False  # whether its blocks are: only then is FlexAttention quick

    def __init__(self, config: ModelConfig, *, causal: bool, cross: bool = False) -> None:
        super().__init__()
        self.config, self.causal = config, causal
        layers = config.decoder_layers if causal else config.encoder_layers
        self.blocks = nn.ModuleList(Block(config, cross) for _ in range(layers))
        self.norm = make_norm(config) if config.norm_placement == "pre" else nn.Identity()
        self.windows = [config.window(layer) for layer in range(layers)]
        if config.positions == "rotary":
            cos_TK, sin_TK = rotary_tables(config.context_length, config.head_dim, config.rope_theta)
            self.register_buffer("rope_cos", cos_TK, persistent=False)
            self.register_buffer("rope_sin", sin_TK, persistent=False)
        elif config.positions == "alibi":
            self.register_buffer("slopes", alibi_slopes(config.num_heads), persistent=False)
        elif config.positions == "relative":
            self.relative_bias = nn.Embedding(32, config.num_heads)

    def forward(
        self,
        x_BTD: Tensor,
        positions_BT: Tensor,
        visible_BS: Tensor | None = None,
        *,
        prefix_BS: Tensor | None = None,
        documents_BT: Tensor | None = None,
        memory: Memory | None = None,
        cache: DecoderCache | None = None,
        asked_BR: Tensor | None = None,
    ) -> Tensor:
        """Embedded tokens to the states after the last norm, x_BTD.

        Args:
            x_BTD: embedded tokens.
            positions_BT: int64, where in their texts they stand; B may be 1.
            visible_BS: bool, False at padding; None: nothing is hidden.
            prefix_BS: int64, for a prefix LM: how many first tokens of each text are seen by all; S may be 1.
            documents_BT: int64, which of the documents in its row each token is of; none sees another's. Without cache.
            memory: the encoder's states, for a decoder with cross-attention.
            cache: keys and values of earlier calls; the new ones are written into it.
            asked_BR: int64, the places in T whose states are wanted, x_BRD: the last block makes no others, and of the
                others only keys and values. None: all.
        """
        sights = self._sights(positions_BT, visible_BS, prefix_BS, documents_BT, cache)
        states = memory_sight = None
        if memory is not None:
            states, memory_sight = memory.states_BSD, Sight(padding_bias(memory.visible_BS))
        for layer, block in enumerate(self.blocks):
            own = cache.own[layer] if cache is not None else None
            across = cache.memory[layer] if cache is not None and cache.memory else None
            asked = asked_BR if layer + 1 == len(self.blocks) else None
            x_BTD = block(x_BTD, sights[self.windows[layer]], states, memory_sight, own, across, asked)
        return self.norm(x_BTD)

    def _sights(
        self,
        positions_BT: Tensor,
        visible_BS: Tensor | None,
        prefix_BS: Tensor | None,
        documents_BT: Tensor | None,
        cache: DecoderCache | None,
    ) -> dict[int | None, Sight]:
        """What each layer sees, by its window: made once for all layers of a window."""
        keys_BS = positions_BT
        if cache is not None:
            keys_BS = torch.arange(cache.length, device=positions_BT.device)[None]
        distance_BTS = keys_BS[:, None] - positions_BT[:, :, None]
        scores = self._position_scores(distance_BTS)
        rotary = None
        if self.config.positions == "rotary":
            rotary = self.rope_cos[positions_BT][:, None], self.rope_sin[positions_BT][:, None]
        hidden = (scores, visible_BS, prefix_BS, documents_BT, cache)
        only_causal = self.causal and all(given is None for given in hidden)
        sights = {}
        for window in set(self.windows):
            bias = visible_bias(
                positions_BT,
                keys_BS,
                causal=self.causal,
                window=window,
                visible_BS=visible_BS,
                prefix_BS=prefix_BS,
                documents_BT=documents_BT,
            )
            blocks = None
            if scores is not None:
                bias = scores if bias is None else bias + scores
            elif documents_BT is not None and self._asks_blocks(documents_BT):
                blocks = visible_blocks(
                    documents_BT, positions_BT, causal=self.causal, window=window, prefix_BS=prefix_BS
                )
            sights[window] = Sight(bias, only_causal and window is None, rotary, positions_BT, blocks)
        return sights

    def _asks_blocks(self, documents_BT: Tensor) -> bool:
        """Whether FlexAttention is asked: in compiled training on a GPU. It has no smaller heads, and no dropout."""
        config, trains = self.config, self.is_compiled and self.training
        return trains and documents_BT.is_cuda and config.head_dim >= 16 and not config.attention_dropout

    def _position_scores(self, distance_BTS: Tensor) -> Tensor | None:
        """What ALiBi or T5's relative positions add to the scores, (B or 1, H, T, S)."""
        if self.config.positions == "alibi":
            return -self.slopes[:, None, None] * distance_BTS.abs()[:, None]
        if self.config.positions == "relative":
            buckets_BTS = relative_buckets(distance_BTS, causal=self.causal)
            return widen(self.relative_bias(buckets_BTS).permute(0, 3, 1, 2))
        return None


def make_norm(config: ModelConfig) -> nn.Module:
    return NORMS[config.norm](config.hidden_size, config.norm_eps, config.biases != "none")
