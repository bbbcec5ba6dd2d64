"""Keys and values that are computed once and looked at for every new token.

Legend: B batch, S key positions, G heads of keys and values, K head dimension, T new positions.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.model.config import ModelConfig


class KeyValues:
    """The keys and values of one attention: written at their positions, or once for all from a memory.

    Room for a whole generation is taken at the start, so that every step has the same shapes. What stands at a
    position that was not written yet, or that padding wrote, is never seen: the mask shows a query only the positions
    before it, and these have been written by its own text.
    """

    def __init__(self, keys_BGSK: Tensor | None = None, values_BGSK: Tensor | None = None) -> None:
        self._keys, self._values = keys_BGSK, values_BGSK

    @property
    def filled(self) -> bool:
        return self._keys is not None

    @property
    def keys(self) -> Tensor:
        assert self._keys is not None
        return self._keys

    @property
    def values(self) -> Tensor:
        assert self._values is not None
        return self._values

    def update(self, k_BGTK: Tensor, v_BGTK: Tensor, positions_BT: Tensor | None) -> tuple[Tensor, Tensor]:
        """Write new keys and values at `positions_BT` (None: these are all there will be); returns all of them."""
        if positions_BT is None:
            self._keys, self._values = k_BGTK, v_BGTK
            return k_BGTK, v_BGTK
        # Not `scatter_`: compiled for a CPU it copies the whole cache, and a step of 8 rows takes half as long again.
        rows_B1 = torch.arange(len(k_BGTK), device=k_BGTK.device)[:, None]
        self.keys[rows_B1, :, positions_BT] = k_BGTK.transpose(1, 2).to(self.keys.dtype)
        self.values[rows_B1, :, positions_BT] = v_BGTK.transpose(1, 2).to(self.values.dtype)
        return self.keys, self.values

    def take(self, rows_B: Tensor) -> None:
        """Keep these rows of the batch, in this order, any of them several times (beam search)."""
        if self._keys is not None:
            self._keys, self._values = self.keys[rows_B], self.values[rows_B]


@dataclass
class DecoderCache:
    """The caches of a decoder's blocks: of self-attention, and of cross-attention if there is an encoder.

    Attributes:
        ids_BS: int64, the token that was read at each position, for a network that looks n-grams up; or None.
    """

    own: list[KeyValues]
    memory: list[KeyValues] = field(default_factory=list)
    ids_BS: Tensor | None = None

    @classmethod
    def empty(
        cls, config: ModelConfig, rows: int, length: int, dtype: torch.dtype, device: torch.device
    ) -> "DecoderCache":
        """Room for `length` positions of `rows` texts in every block."""
        shape = (rows, config.kv_heads, length, config.head_dim)
        layers = config.decoder_layers
        own = [KeyValues(*(torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))) for _ in range(layers)]
        memory = [KeyValues() for _ in range(layers)] if config.encoder_layers else []
        ids_BS = torch.zeros(rows, length, dtype=torch.int64, device=device) if config.ngram_sizes else None
        return cls(own, memory, ids_BS)

    @property
    def length(self) -> int:
        return self.own[0].keys.size(2)

    def read(self, ids_BT: Tensor, positions_BT: Tensor) -> Tensor | None:
        """Write down new tokens; returns `ids_BS`."""
        if self.ids_BS is not None:
            self.ids_BS[torch.arange(len(ids_BT), device=ids_BT.device)[:, None], positions_BT] = ids_BT
        return self.ids_BS

    def take(self, rows_B: Tensor) -> None:
        for key_values in (*self.own, *self.memory):
            key_values.take(rows_B)
        if self.ids_BS is not None:
            self.ids_BS = self.ids_BS[rows_B]

    def spread(self, rows_B: Tensor, length: int) -> "DecoderCache":
        """A new cache of a decoder with room for `length` positions, whose rows begin as these rows do."""
        own = []
        for key_values in self.own:
            both = []
            for old in (key_values.keys, key_values.values):
                new = old.new_zeros(len(rows_B), old.size(1), length, old.size(3))
                new[:, :, : self.length] = old[rows_B]
                both.append(new)
            own.append(KeyValues(*both))
        ids_BS = None
        if self.ids_BS is not None:
            ids_BS = self.ids_BS.new_zeros(len(rows_B), length)
            ids_BS[:, : self.length] = self.ids_BS[rows_B]
        return DecoderCache(own, ids_BS=ids_BS)
