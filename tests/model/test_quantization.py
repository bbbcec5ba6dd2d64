"""Int8 linear layers: the product of the rounded numbers, exactly, and nothing else is touched."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from pipeline.model.quantization import LARGEST, Int8Linear, quantize_linears
from pipeline.model.transformer import Transformer
from tests.training.tiny import tiny_config


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 70), st.integers(1, 40), st.integers(1, 9), st.booleans(), st.integers(0, 99))
def test_it_is_the_product_of_the_rounded_numbers(inputs: int, outputs: int, rows: int, bias: bool, seed: int) -> None:
    torch.manual_seed(seed)
    linear, x_RI = nn.Linear(inputs, outputs, bias=bias), torch.randn(rows, inputs)
    weight_OI = linear.weight.detach()
    weight_scales_O = weight_OI.abs().amax(dim=1) / LARGEST
    x_scales_R = x_RI.abs().amax(dim=1) / LARGEST
    slow_RO = torch.empty(rows, outputs, dtype=torch.float64)
    for r in range(rows):
        for o in range(outputs):
            whole = (x_RI[r] / x_scales_R[r]).round().long() @ (weight_OI[o] / weight_scales_O[o]).round().long()
            slow_RO[r, o] = whole * x_scales_R[r].double() * weight_scales_O[o].double()
    if bias:
        slow_RO += linear.bias.detach()
    with torch.inference_mode():
        torch.testing.assert_close(Int8Linear(linear)(x_RI).double(), slow_RO, rtol=1e-5, atol=1e-6)


def test_a_token_is_answered_alike_beside_any_other() -> None:
    torch.manual_seed(0)
    layer, x_BTI = Int8Linear(nn.Linear(16, 8)), torch.randn(2, 3, 16)
    x_BTI[0] *= 100
    with torch.inference_mode():
        assert torch.equal(layer(x_BTI)[1, 2], layer(x_BTI[1:, 2:])[0, 0])


def test_zeros_stay_zeros() -> None:
    linear = nn.Linear(8, 4, bias=False)
    assert Int8Linear(linear)(torch.zeros(3, 8)).abs().max() == 0
    nn.init.zeros_(linear.weight)
    assert Int8Linear(linear)(torch.randn(3, 8)).abs().max() == 0


def test_every_linear_layer_is_replaced_and_nothing_else() -> None:
    torch.manual_seed(0)
    model = Transformer(tiny_config("causal")).eval()
    ids_BT = torch.arange(24).reshape(2, 12)
    before = {name: value.clone() for name, value in model.named_parameters()}
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    with torch.inference_mode():
        full_BTD = model.hidden_states(ids_BT, None)
        saved = quantize_linears(model)
        int8_BTD = model.hidden_states(ids_BT, None)
    assert saved == 3 * sum(linear.weight.numel() for linear in linears)
    assert not any(isinstance(module, nn.Linear) for module in model.modules())
    kept = dict(model.named_parameters())
    assert kept
    assert all(torch.equal(before[name], value) for name, value in kept.items())
    assert not torch.equal(full_BTD, int8_BTD)
    assert (full_BTD - int8_BTD).norm() < 0.03 * full_BTD.norm()
