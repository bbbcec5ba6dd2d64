"""The parts of a network, by name. What each one is, is said where it is built: pipeline/model.

They stand apart from the settings, so that a network alone needs nothing but torch.
"""

from typing import Literal, get_args

Family = Literal["decoder", "encoder", "encoder-decoder"]
Positions = Literal["sinusoidal", "learned", "rotary", "alibi", "relative", "none"]
Norm = Literal["layernorm", "rmsnorm"]
NormPlacement = Literal["pre", "post"]
FeedForward = Literal["relu", "gelu", "gelu_tanh", "relu2", "geglu", "geglu_tanh", "swiglu"]
Biases = Literal["none", "feed_forward", "all"]
Matrix = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
PART_CHOICES: dict[str, tuple[str, ...]] = {
    "family": get_args(Family),
    "positions": get_args(Positions),
    "norm": get_args(Norm),
    "norm_placement": get_args(NormPlacement),
    "feed_forward": get_args(FeedForward),
    "biases": get_args(Biases),
}
