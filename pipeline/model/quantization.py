"""Int8 linear layers for serving: weights are rounded once, activations anew in each call.

Legend: R rows (tokens), O outputs, I inputs.
"""

import torch
from torch import Tensor, nn

LARGEST = 127  # of int8


class Int8Linear(nn.Module):
    """A linear layer whose product is done in int8 (dynamic quantization, W8A8).

    Every output of the weights and every token of the activations has a scale of its own, symmetric around zero, so
    that what is said of a token does not depend on the others: Dettmers et al. 2022, arXiv:2208.07339, section 2.1.
    It cannot be trained or saved.

    Args:
        linear: a trained layer.
    """

    weight_IO: Tensor
    scales_O: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        rounded_OI, scales_O1 = round_rows(linear.weight.detach().float())
        # Copied anew: of one input, `contiguous` leaves strides (1, 1), and `_int_mm` then writes no product at all.
        self.register_buffer("weight_IO", rounded_OI.t().clone(memory_format=torch.contiguous_format))
        self.register_buffer("scales_O", scales_O1[:, 0])
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """The last dimension from I to O, any dtype to float32."""
        with torch.autocast(x.device.type, enabled=False):
            x_RI, scales_R1 = round_rows(x.float().flatten(0, -2))
            y_RO = torch._int_mm(x_RI, self.weight_IO) * (scales_R1 * self.scales_O)
            y_RO = y_RO if self.bias is None else y_RO + self.bias.float()
        return y_RO.unflatten(0, x.shape[:-1])


def round_rows(x_RI: Tensor) -> tuple[Tensor, Tensor]:
    """Float32 rows as int8 and the scales (R, 1), float32, that give them back."""
    scales_R1 = x_RI.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / LARGEST
    return (x_RI / scales_R1).round().to(torch.int8), scales_R1


def quantize_linears(module: nn.Module) -> int:
    """Put an `Int8Linear` in the place of every linear layer inside `module`; returns how many bytes that saves.

    Embeddings, norms and what predicts tokens stay as they are.
    """
    saved = 0
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            saved += child.weight.numel() * (child.weight.element_size() - 1)
            setattr(module, name, Int8Linear(child))
        else:
            saved += quantize_linears(child)
    return saved
