"""Hiding tokens in training, so that their surroundings must tell.

Legend: B rows of a batch, T positions.
"""

import torch
from torch import Tensor

from pipeline.tokenization.tokenizer import Tokenizer


def hide_tokens(ids_BT: Tensor, may_hide_BT: Tensor, share: float, hidden_id: int) -> Tensor:
    """The ids with a share of those that may be hidden (bool) replaced by `hidden_id`.

    Drawn from torch's generator, whose state is in every checkpoint.
    """
    chosen_BT = (torch.rand(ids_BT.shape, device=ids_BT.device) < share) & may_hide_BT
    return ids_BT.masked_fill(chosen_BT, hidden_id)


def find_hidden_id(tokenizer: Tokenizer) -> int:
    """What hidden tokens become: the mask, without one the unknown token, without that padding."""
    return next(place for place in (tokenizer.mask_id, tokenizer.unk_id, tokenizer.pad_id) if place is not None)
