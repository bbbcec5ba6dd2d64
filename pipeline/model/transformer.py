"""The three families: decoder (GPT), encoder (BERT), and encoder-decoder (Vaswani et al. 2017).

Legend: B batch, T positions, S positions of the source, D hidden size, V vocabulary.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from pipeline.common.errors import HallmarkError
from pipeline.model.block import Memory, Stack, make_norm
from pipeline.model.cache import DecoderCache
from pipeline.model.config import ModelConfig
from pipeline.model.ngram_embedding import NgramEmbedding
from pipeline.model.positions import document_positions, sinusoidal_table


class Embedding(nn.Module):
    """Token ids, their n-grams, their positions and their segments to vectors."""

    table_TD: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.scale = math.sqrt(config.hidden_size) if config.scale_embeddings else 1.0
        self.tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        sizes, buckets = config.ngram_sizes, config.ngram_buckets
        self.ngrams = NgramEmbedding(sizes, buckets, config.hidden_size) if sizes else None
        learned = config.positions == "learned"
        self.positions = nn.Embedding(config.context_length, config.hidden_size) if learned else None
        self.segments = nn.Embedding(config.segments, config.hidden_size) if config.segments else None
        self.norm = make_norm(config) if config.embedding_norm else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        table = (
            sinusoidal_table(config.context_length, config.hidden_size) if config.positions == "sinusoidal" else None
        )
        self.register_buffer("table_TD", table, persistent=False)

    def forward(
        self,
        ids_BT: Tensor,
        positions_BT: Tensor,
        segments_BT: Tensor | None = None,
        read_BS: Tensor | None = None,
    ) -> Tensor:
        """int64 ids, positions (B may be 1) and segments (None: all 0) to x_BTD.

        `read_BS` are all ids of each text by their positions, these among them; None: there are no others.
        """
        x_BTD = self.tokens(ids_BT)
        if self.scale != 1.0:
            x_BTD = x_BTD * self.scale
        if self.ngrams is not None:
            x_BTD = x_BTD + self.ngrams(ids_BT, positions_BT, read_BS)
        if self.positions is not None:
            x_BTD = x_BTD + self.positions(positions_BT)
        elif self.table_TD is not None:
            x_BTD = x_BTD + self.table_TD[positions_BT]
        if self.segments is not None:
            x_BTD = x_BTD + self.segments(torch.zeros_like(ids_BT) if segments_BT is None else segments_BT)
        return self.dropout(self.norm(x_BTD))


class LanguageHead(nn.Module):
    """States to logits of tokens: a matrix, or BERT's transform (dense, GELU, norm), a matrix and a bias.

    `weight` is the token embedding's own where the two are tied.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.weight: Tensor = nn.Parameter(torch.empty(config.vocab_size, size))
        self.scale = 1 / math.sqrt(size) if config.scale_logits and config.tied_embeddings else 1.0
        transform = config.head == "transform"
        self.dense = nn.Linear(size, size, bias=config.biases == "all") if transform else None
        self.norm = make_norm(config) if transform else None
        self.bias = nn.Parameter(torch.zeros(config.vocab_size)) if transform else None

    def features(self, x_BTD: Tensor) -> Tensor:
        """What the matrix is multiplied with."""
        if self.dense is not None and self.norm is not None:
            x_BTD = self.norm(gelu(self.dense(x_BTD)))
        return x_BTD * self.scale if self.scale != 1.0 else x_BTD

    def forward(self, x_BTD: Tensor) -> Tensor:
        return linear(self.features(x_BTD), self.weight, self.bias)


class PairHead(nn.Module):
    """The state of the first token to logits (B, 2): the second text is another one's, or goes on (BERT's NSP)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, 2)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.classifier(self.pooler(x_BTD[:, 0]).tanh())


class Transformer(nn.Module):
    """A language model of any family over at most `config.context_length` tokens.

    A decoder predicts each token's successor, an encoder the tokens that were masked, an encoder-decoder a target text
    from a source text.
    """

    def __init__(self, config: ModelConfig, heads: bool = True) -> None:
        """Random weights. Without `heads` only what a task builds on: no head, and no decoder behind an encoder."""
        super().__init__()
        self.config = config
        both = config.family == "encoder-decoder"
        self.embedding = Embedding(config)
        self.encoder = Stack(config, causal=False) if config.encoder_layers else None
        self.decoder = Stack(config, causal=True, cross=both) if config.decoder_layers and (heads or not both) else None
        self.lm_head = LanguageHead(config) if heads else None
        self.pair_head = PairHead(config) if heads and config.pair_head else None
        self._initialise()
        if self.lm_head is not None and config.tied_embeddings:
            self.lm_head.weight = self.embedding.tokens.weight

    def _initialise(self) -> None:
        """Fan-in normal weights, and smaller ones for what writes to the residual stream: by the root of the number of
        a stack's writers, so that the stream keeps its size whatever the depth (Radford et al. 2019).
        """
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=1 / math.sqrt(module.in_features))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
                if name.endswith("q_proj") and not self.config.scale_attention:
                    module.weight.data.div_(math.sqrt(self.config.head_dim))
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        if self.embedding.ngrams is not None:
            for table in self.embedding.ngrams.parameters():
                nn.init.zeros_(table)
        for stack in filter(None, (self.encoder, self.decoder)):
            ends = ("o_proj.weight", "down_proj.weight")
            writers = [weight for name, weight in stack.named_parameters() if name.endswith(ends)]
            for weight in writers:
                weight.data.div_(math.sqrt(len(writers)))
        if self.lm_head is not None:
            nn.init.normal_(self.lm_head.weight, std=0.02)
        if self.config.scale_logits and self.config.tied_embeddings:  # as large as the first T5's
            nn.init.normal_(self.embedding.tokens.weight)

    def hidden_states(
        self,
        ids_BT: Tensor,
        attention_mask_BT: Tensor | None = None,
        *,
        segments_BT: Tensor | None = None,
        prefix_BS: Tensor | None = None,
        documents_BT: Tensor | None = None,
        asked_BR: Tensor | None = None,
    ) -> Tensor:
        """Token ids to x_BTD after the last norm: of the decoder, or of the encoder where there is one.

        Args:
            ids_BT: int64 token ids.
            attention_mask_BT: bool, False at padding. Texts padded on the right need none in a decoder: no token sees a
                later one.
            segments_BT: int64, 0 or 1 for the first or the second text of a pair.
            prefix_BS: int64, for a prefix LM: how many first tokens of each text see one another; S is 1, or T where
                documents share a row and each token is given its own document's.
            documents_BT: int64, where documents share a row: which one each token is of. Each document is then as
                alone: its positions begin at 0, and it sees nothing of the others.
            asked_BR: int64, the places in T whose states are wanted, x_BRD; None: all. Not with documents.

        Raises:
            HallmarkError: T is longer than the context.
        """
        positions_BT = self._positions(ids_BT)
        if documents_BT is not None:
            positions_BT = document_positions(documents_BT)
        x_BTD = self.embedding(ids_BT, positions_BT, segments_BT)
        if self.encoder is not None:
            return self.encoder(x_BTD, positions_BT, attention_mask_BT, documents_BT=documents_BT, asked_BR=asked_BR)
        assert self.decoder is not None
        return self.decoder(
            x_BTD, positions_BT, attention_mask_BT, prefix_BS=prefix_BS, documents_BT=documents_BT, asked_BR=asked_BR
        )

    def encode(self, ids_BS: Tensor, attention_mask_BS: Tensor | None = None) -> Memory:
        """A source text to what the decoder looks at."""
        return Memory(self.hidden_states(ids_BS, attention_mask_BS), attention_mask_BS)

    def decode(
        self,
        ids_BT: Tensor,
        memory: Memory | None = None,
        *,
        positions_BT: Tensor | None = None,
        cache: DecoderCache | None = None,
        asked_BR: Tensor | None = None,
    ) -> Tensor:
        """Token ids to the decoder's states x_BTD.

        Args:
            ids_BT: int64 token ids, or with a cache only the new ones.
            memory: of `encode`, for an encoder-decoder.
            positions_BT: int64, where the ids stand; needed with a cache.
            cache: keys and values of what came before; the new ones are written into it.
            asked_BR: int64, the places in T whose states are wanted, x_BRD; None: all.
        """
        assert self.decoder is not None, "an encoder decodes nothing"
        if positions_BT is None:
            positions_BT = self._positions(ids_BT)
        read_BS = None if cache is None else cache.read(ids_BT, positions_BT)
        x_BTD = self.embedding(ids_BT, positions_BT, read_BS=read_BS)
        return self.decoder(x_BTD, positions_BT, memory=memory, cache=cache, asked_BR=asked_BR)

    def forward(
        self, ids_BT: Tensor, attention_mask_BT: Tensor | None = None, target_ids_BT: Tensor | None = None
    ) -> Tensor:
        """Token ids to logits_BTV: of each successor, of each token itself (encoder), or of the target's successors."""
        if target_ids_BT is None:
            return self.logits(self.hidden_states(ids_BT, attention_mask_BT))
        return self.logits(self.decode(target_ids_BT, self.encode(ids_BT, attention_mask_BT)))

    def logits(self, x_BTD: Tensor) -> Tensor:
        assert self.lm_head is not None, "this body has no head"
        return self.lm_head(x_BTD)

    def _positions(self, ids_BT: Tensor) -> Tensor:
        length = ids_BT.size(1)
        if length > self.config.context_length:
            raise HallmarkError(
                f"{length} tokens do not fit the model's context of {self.config.context_length}",
                fix="shorten the input, or train with a larger model.context_length",
            )
        return torch.arange(length, device=ids_BT.device)[None]
