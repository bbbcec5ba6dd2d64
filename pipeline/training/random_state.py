"""The state of the global random generators: torch's on the CPU and the device, NumPy's and Python's."""

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class RandomState:
    """What every generator draws next.

    Attributes:
        torch: uint8, by device.
        numpy: as `numpy.random.get_state(legacy=False)` gives it.
        python: as `random.getstate()` gives it.
    """

    torch: dict[str, Tensor]
    numpy: dict[str, Any]
    python: Any

    def to_json(self) -> dict[str, Any]:
        """Without torch's, which are tensors."""
        key = self.numpy["state"]["key"].tolist()
        return {"numpy": self.numpy | {"state": {**self.numpy["state"], "key": key}}, "python": self.python}


def random_state() -> RandomState:
    of_torch = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        of_torch["cuda"] = torch.cuda.get_rng_state()
    of_numpy: Any = np.random.get_state(legacy=False)
    return RandomState(of_torch, of_numpy, random.getstate())


def restore_random_state(state: RandomState) -> None:
    """Take up a state, also one that went through JSON."""
    torch.set_rng_state(state.torch["cpu"])
    if "cuda" in state.torch:
        torch.cuda.set_rng_state(state.torch["cuda"])
    np.random.set_state(state.numpy)
    kind, numbers, gauss = state.python
    random.setstate((kind, tuple(numbers), gauss))
