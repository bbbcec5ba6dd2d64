"""Multi-head attention: self- and cross-, with any position scheme, any mask and grouped keys.

Legend: B batch, T query positions, S key positions, R queries that are asked for, D hidden size, H heads, G heads of
keys and values, K head dimension.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout, scaled_dot_product_attention

from pipeline.model.amx.attention import Recipe, attend_by_amx, can_attend
from pipeline.model.attention_gradient import attend_with_gradient
from pipeline.model.cache import KeyValues
from pipeline.model.config import ModelConfig
from pipeline.model.linear import Linear, project
from pipeline.model.norms import NORMS, RMSNorm, widen
from pipeline.model.positions import rotate
from pipeline.model.softmax import steady_softmax


class Sight(NamedTuple):
    """What the queries of a layer see, and from where.

    Attributes:
        bias: float32, broadcasts to (B, H, T, S): 0 or a position's score where a query may look, -inf where it may
            not; None: everything is seen.
        causal: the bias says "no later position" and nothing else, so that a fast kernel may say it itself.
        rotary: cos and sin of the positions, broadcast to (B, H, T, K); None: nothing is turned.
        positions_BT: int64, where new keys go in the cache; only read with a cache.
        blocks: what the bias says, for compiled code, see `visible_blocks`; None: there is only the bias.
    """

    bias: Tensor | None = None
    causal: bool = False
    rotary: tuple[Tensor, Tensor] | None = None
    positions_BT: Tensor | None = None
    blocks: Any = None

    def at(self, asked_BR: Tensor) -> "Sight":
        """What the queries at these places see, int64 places in T."""

        def rows(x: Tensor) -> Tensor:
            """(B or 1, H or 1, T or 1, N) to (B, H or 1, R, N), or as it is where all queries are alike."""
            if x.size(2) == 1:
                return x
            return take_places(x.transpose(1, 2).expand(len(asked_BR), -1, -1, -1), asked_BR).transpose(1, 2)

        rotary = None if self.rotary is None else (rows(self.rotary[0]), rows(self.rotary[1]))
        return Sight(None if self.bias is None else rows(self.bias), rotary=rotary)


def take_places(x_BTD: Tensor, asked_BR: Tensor) -> Tensor:
    """Of each row the vectors at these places of T, int64, (B, R, D); T is followed by any dimensions."""
    return x_BTD[torch.arange(len(asked_BR), device=x_BTD.device)[:, None], asked_BR]


def attention_weights(q_BHTK: Tensor, k_BHSK: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """softmax(scale Q K^T + bias) over S, float32 (B, H, T, S) (Vaswani et al. 2017, eq. 1)."""
    scores_BHTS = widen(q_BHTK @ k_BHSK.transpose(-2, -1)) * scale
    return steady_softmax(scores_BHTS if bias is None else scores_BHTS + bias)


def attend(
    q_BHTK: Tensor, k_BHSK: Tensor, v_BHSK: Tensor, bias: Tensor | None, scale: float, dropout_share: float = 0.0
) -> Tensor:
    """Attention written out: the reference that every fast path is tested against.

    A CPU uses it, but for training that is compiled, see `attend_by_amx` and `attend_with_gradient`. It trains faster
    there than `scaled_dot_product_attention`, whose CPU backward costs more than the two products.
    """
    weights_BHTS = attention_weights(q_BHTK, k_BHSK, bias, scale).to(v_BHSK.dtype)
    if dropout_share:
        weights_BHTS = dropout(weights_BHTS, dropout_share)
    return weights_BHTS @ v_BHSK


def attend_fast(
    q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, sight: Sight, scale: float, dropout_share: float = 0.0
) -> Tensor:
    """The same by torch's fused kernels, which never write the weights down: what a GPU uses."""
    bias = None if sight.causal or sight.bias is None else sight.bias.to(q_BHTK.dtype)
    return scaled_dot_product_attention(
        q_BHTK,
        k_BGSK,
        v_BGSK,
        attn_mask=bias,
        dropout_p=dropout_share,
        is_causal=sight.causal,
        scale=scale,
        enable_gqa=q_BHTK.size(1) != k_BGSK.size(1),
    )


def attend_by_blocks(q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, blocks: Any, scale: float) -> Tensor:
    """The same by FlexAttention, which leaves out what no query sees; quick only where it is compiled.

    Documents of 300 tokens in rows of 1,024, forward and backward on an H200, the same bits each time: 0.9 ms against
    3.9 ms with the bias.
    """
    from torch.nn.attention.flex_attention import flex_attention

    grouped = q_BHTK.size(1) != k_BGSK.size(1)
    return flex_attention(q_BHTK, k_BGSK, v_BGSK, block_mask=blocks, scale=scale, enable_gqa=grouped)  # type: ignore[return-value]


def visible_blocks(
    documents_BT: Tensor,
    positions_BT: Tensor,
    *,
    causal: bool,
    window: int | None = None,
    prefix_BS: Tensor | None = None,
) -> Any:
    """FlexAttention's `BlockMask` of rows of documents: which queries see which keys, as `visible_bias` says it.

    Args:
        documents_BT, positions_BT, window, prefix_BS: see there; positions count on within a document.
    """
    from torch.nn.attention.flex_attention import create_block_mask

    rows, length = documents_BT.shape

    def sees(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        seen = documents_BT[row, query] == documents_BT[row, key]
        if window is not None:
            seen = seen & (query - key < window) & (key - query < window)
        if not causal:
            return seen
        if prefix_BS is None:
            return seen & (key <= query)
        return seen & ((key <= query) | (positions_BT[row, key] < prefix_BS[row, key]))

    return create_block_mask(sees, rows, None, length, length, device=str(documents_BT.device))


class Attention(nn.Module):
    """Self-attention, or cross-attention where a memory is given."""

    recorded: list[Tensor] | None = None  # see `record_attention`
    by_amx = False  # whether compiled training asks `attend_by_amx` where it can

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        heads, kv_heads, head_dim = config.num_heads, config.kv_heads, config.head_dim
        bias = config.biases == "all"
        self.heads, self.kv_heads = heads, kv_heads
        self.scale = 1 / math.sqrt(head_dim) if config.scale_attention else 1.0
        self.dropout_share = config.attention_dropout
        self.q_proj = Linear(config.hidden_size, heads * head_dim, bias=bias)
        self.k_proj = Linear(config.hidden_size, kv_heads * head_dim, bias=bias)
        self.v_proj = Linear(config.hidden_size, kv_heads * head_dim, bias=bias)
        self.o_proj = Linear(heads * head_dim, config.hidden_size, bias=bias)
        norm, self.eps = NORMS[config.norm], config.norm_eps
        self.q_norm = norm(head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = norm(head_dim, config.norm_eps) if config.qk_norm else nn.Identity()

    def forward(
        self,
        x_BTD: Tensor,
        sight: Sight,
        memory_BSD: Tensor | None = None,
        cache: KeyValues | None = None,
        asked_BR: Tensor | None = None,
    ) -> Tensor:
        """Queries from x, keys and values from x too or from a memory; with a cache also from earlier calls.

        `asked_BR` are the places in T whose answers are wanted, (B, R, D); None: all.
        """
        asking_BTD, asked = x_BTD, sight
        if asked_BR is not None:
            asking_BTD, asked = take_places(x_BTD, asked_BR), sight.at(asked_BR)
        if memory_BSD is not None and cache is not None and cache.filled:
            q_BHTK = self._split(self.q_proj(asking_BTD), self.heads)
            k_BGSK, v_BGSK = cache.keys, cache.values
        else:
            q_BHTK, k_BGSK, v_BGSK = self._project(asking_BTD, x_BTD if memory_BSD is None else memory_BSD)
            if cache is None and self._goes_by_amx(q_BHTK, asked.bias):
                y_BHTK = self._attend_by_amx(q_BHTK, k_BGSK, v_BGSK, asked, sight)
                return self.o_proj(y_BHTK.transpose(1, 2).flatten(2))
            k_BGSK = self.k_norm(k_BGSK)
            if sight.rotary is not None:
                k_BGSK = rotate(k_BGSK, *sight.rotary)
            k_BGSK = k_BGSK.to(v_BGSK.dtype)
            if cache is not None:
                k_BGSK, v_BGSK = cache.update(k_BGSK, v_BGSK, None if memory_BSD is not None else sight.positions_BT)
        q_BHTK = self.q_norm(q_BHTK)
        if asked.rotary is not None:
            q_BHTK = rotate(q_BHTK, *asked.rotary)
        y_BHTK = self._attend(q_BHTK.to(v_BGSK.dtype), k_BGSK, v_BGSK, asked)
        return self.o_proj(y_BHTK.transpose(1, 2).flatten(2))

    def _project(self, asking_BTD: Tensor, source_BSD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, T, K), and keys and values (B, G, S, K)."""
        if asking_BTD is source_BSD:
            q_BTE, k_BSE, v_BSE = project(source_BSD, (self.q_proj, self.k_proj, self.v_proj))
        else:
            q_BTE, (k_BSE, v_BSE) = self.q_proj(asking_BTD), project(source_BSD, (self.k_proj, self.v_proj))
        return self._split(q_BTE, self.heads), self._split(k_BSE, self.kv_heads), self._split(v_BSE, self.kv_heads)

    def _goes_by_amx(self, q_BHTK: Tensor, bias: Tensor | None) -> bool:
        trains = self.training and not self.dropout_share and torch.compiler.is_compiling()
        return self.by_amx and trains and can_attend(q_BHTK, bias) and isinstance(self.q_norm, RMSNorm | nn.Identity)

    def _attend_by_amx(self, q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, asked: Sight, sight: Sight) -> Tensor:
        """Of queries and keys as they are projected."""

        def recipe(norm: nn.Module, rotary: tuple[Tensor, Tensor] | None) -> Recipe:
            return Recipe(widen(norm.weight) if isinstance(norm, RMSNorm) else None, *(rotary or (None, None)))

        of_q, of_k = recipe(self.q_norm, asked.rotary), recipe(self.k_norm, sight.rotary)
        return attend_by_amx(q_BHTK, k_BGSK, v_BGSK, asked.bias, self.scale, of_q, of_k, self.eps)

    def _attend(self, q_BHTK: Tensor, k_BGSK: Tensor, v_BGSK: Tensor, sight: Sight) -> Tensor:
        dropout_share = self.dropout_share if self.training else 0.0
        if sight.blocks is not None and torch.compiler.is_compiling():
            return attend_by_blocks(q_BHTK, k_BGSK, v_BGSK, sight.blocks, self.scale)
        if q_BHTK.device.type != "cpu" and self.recorded is None:
            return attend_fast(q_BHTK, k_BGSK, v_BGSK, sight, self.scale, dropout_share)
        k_BHSK, v_BHSK = self._for_each_head(k_BGSK), self._for_each_head(v_BGSK)
        if self.training and not dropout_share and torch.compiler.is_compiling():
            return attend_with_gradient(q_BHTK, k_BHSK, v_BHSK, sight.bias, self.scale)
        if self.recorded is not None:
            self.recorded.append(attention_weights(q_BHTK, k_BHSK, sight.bias, self.scale))
        return attend(q_BHTK, k_BHSK, v_BHSK, sight.bias, self.scale, dropout_share)

    def _split(self, x_BTD: Tensor, heads: int) -> Tensor:
        return x_BTD.unflatten(-1, (heads, -1)).transpose(1, 2)

    def _for_each_head(self, x_BGSK: Tensor) -> Tensor:
        return x_BGSK if self.heads == self.kv_heads else x_BGSK.repeat_interleave(self.heads // self.kv_heads, dim=1)


@contextmanager
def record_attention(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Collect the weights (B, H, T, S) of every attention inside `model`, by name, one entry per call. Eager only."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, Attention)}
    weights: dict[str, list[Tensor]] = {name: [] for name in found}
    for name, module in found.items():
        module.recorded = weights[name]
    try:
        yield weights
    finally:
        for module in found.values():
            module.recorded = None


def padding_bias(visible_BS: Tensor | None) -> Tensor | None:
    """bias (B, 1, 1, S), alike for all queries: -inf at padding, except in rows of nothing but padding."""
    if visible_BS is None:
        return None
    hidden_BS = ~visible_BS & visible_BS.any(dim=1, keepdim=True)
    bias_BS = torch.zeros(hidden_BS.shape, device=hidden_BS.device).masked_fill(hidden_BS, -math.inf)
    return bias_BS[:, None, None]


def visible_bias(
    query_positions_BT: Tensor,
    key_positions_BS: Tensor,
    *,
    causal: bool,
    window: int | None = None,
    visible_BS: Tensor | None = None,
    prefix_BS: Tensor | None = None,
    documents_BT: Tensor | None = None,
) -> Tensor | None:
    """bias (B or 1, 1, T or 1, S), float32: 0 where a query may look, -inf where it may not; None if it may everywhere.

    Args:
        query_positions_BT, key_positions_BS: int64; B may be 1.
        causal: no query sees a later key.
        window: no query sees a key at this distance or more.
        visible_BS: bool, False at padding.
        prefix_BS: int64, one for a text or one for each key; keys at positions before it are seen by all queries
            (prefix LM, Raffel et al. 2020).
        documents_BT: int64; no query sees a key of another document, whose positions may be the same. S is T.

    A row of nothing but padding must not become NaN: it sees all of itself where only padding is hidden, and else every
    query its own position.
    """
    if not causal and window is None and documents_BT is None:
        return padding_bias(visible_BS)
    keys_B1S = key_positions_BS[:, None]
    distance_BTS = query_positions_BT[:, :, None] - keys_B1S
    allowed_BTS = torch.ones_like(distance_BTS, dtype=torch.bool)
    if causal:
        allowed_BTS = distance_BTS >= 0
        if prefix_BS is not None:
            allowed_BTS = allowed_BTS | (keys_B1S < prefix_BS[:, None])
    if window is not None:
        allowed_BTS = allowed_BTS & (distance_BTS.abs() < window)
    if visible_BS is not None:
        allowed_BTS = allowed_BTS & visible_BS[:, None]
    allowed_BTS = allowed_BTS | (distance_BTS == 0)
    if documents_BT is not None:
        allowed_BTS = allowed_BTS & (documents_BT[:, :, None] == documents_BT[:, None])
    bias_BTS = torch.zeros(allowed_BTS.shape, device=allowed_BTS.device).masked_fill(~allowed_BTS, -math.inf)
    return bias_BTS[:, None]
