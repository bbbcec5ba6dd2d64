"""The decoder-only language model: rotary positions, RMSNorm before each part, SwiGLU, QK-norm, no biases.

Legend: B batch, T positions, D hidden size, V vocabulary.
"""

import math

import torch
from torch import Tensor, nn

from pipeline.common.errors import HallmarkError
from pipeline.model.attention import Attention, causal_bias
from pipeline.model.config import ModelConfig
from pipeline.model.feed_forward import SwiGLU
from pipeline.model.norms import RMSNorm
from pipeline.model.positions import rotary_tables


class Block(nn.Module):
    """One layer: attention, then feed-forward, each on the normed residual stream and added to it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.attention = Attention(config)
        self.feed_forward_norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.feed_forward = SwiGLU(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor], bias_TS: Tensor) -> Tensor:
        x_BTD = x_BTD + self.dropout(self.attention(self.attention_norm(x_BTD), rotary, bias_TS))
        return x_BTD + self.dropout(self.feed_forward(self.feed_forward_norm(x_BTD)))


class Decoder(nn.Module):
    """A causal language model over at most `config.context_length` tokens."""

    rope_cos: Tensor
    rope_sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        cos_TK, sin_TK = rotary_tables(config.context_length, config.head_dim, config.rope_theta)
        self.register_buffer("rope_cos", cos_TK, persistent=False)
        self.register_buffer("rope_sin", sin_TK, persistent=False)
        self._initialise()
        if config.tied_embeddings:
            self.lm_head.weight = self.embed_tokens.weight

    def _initialise(self) -> None:
        """Fan-in normal weights; what writes to the residual stream starts at zero, so blocks start as identity."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=1 / math.sqrt(module.in_features))
                if name.endswith(("o_proj", "down_proj")):
                    nn.init.zeros_(module.weight)
        nn.init.normal_(self.embed_tokens.weight, std=0.02)
        nn.init.normal_(self.lm_head.weight, std=0.02)

    def hidden_states(self, ids_BT: Tensor, attention_mask_BT: Tensor | None = None) -> Tensor:
        """Token ids to x_BTD after the last norm.

        Args:
            ids_BT: int64 token ids.
            attention_mask_BT: bool, False at padding. Texts padded on the right need none: no token sees a later one.

        Raises:
            HallmarkError: T is longer than the context.
        """
        length = ids_BT.size(1)
        if length > self.config.context_length:
            raise HallmarkError(
                f"{length} tokens do not fit the model's context of {self.config.context_length}",
                fix="shorten the input, or train with a larger model.context_length",
            )
        rotary = (self.rope_cos[:length], self.rope_sin[:length])
        bias = causal_bias(length, ids_BT.device)
        if attention_mask_BT is not None:
            bias = bias.masked_fill(~attention_mask_BT[:, None, None, :], -math.inf)
            bias = bias.diagonal_scatter(torch.zeros_like(bias.diagonal(dim1=-2, dim2=-1)), dim1=-2, dim2=-1)
        x_BTD = self.embed_tokens(ids_BT)
        for block in self.blocks:
            x_BTD = block(x_BTD, rotary, bias)
        return self.norm(x_BTD)

    def forward(self, ids_BT: Tensor) -> Tensor:
        """Token ids to logits_BTV of the next token."""
        return self.lm_head(self.hidden_states(ids_BT))
