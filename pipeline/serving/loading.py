"""How every served file loads the packaged model that it answers with."""

import os
from collections.abc import Callable
from typing import Any

from pipeline.common.errors import HallmarkError

DEVICE, INT8 = "HALLMARK_DEVICE", "HALLMARK_INT8"


def load_packaged(package: str, load: Callable[[Any, str], Any]) -> Any:
    """Load a package, on the device that HALLMARK_DEVICE names; without it on a GPU if there is one.

    With HALLMARK_INT8=1 its linear layers work in int8, as `hallmark int8` measures it; on a CPU only.

    Args:
        package: its folder.
        load: of the kind of task.

    Raises:
        HallmarkError: the package was changed, or int8 was asked for in another way or on a GPU.
    """
    import torch

    from pipeline.model.quantization import quantize_linears
    from pipeline.serving.package import read_package

    device = os.environ.get(DEVICE) or ("cuda" if torch.cuda.is_available() else "cpu")
    int8 = _asks_for_int8(device)
    model = load(read_package(package).folder, device)
    if int8:
        quantize_linears(model.model.body)
    return model


def _asks_for_int8(device: str) -> bool:
    value = os.environ.get(INT8, "")
    if value not in ("", "0", "1"):
        raise HallmarkError(f"{INT8} is {value!r}", fix=f"set {INT8} to 1, or to 0 for full precision")
    if value == "1" and device != "cpu":
        raise HallmarkError(
            f"{INT8}=1 is for a CPU, and this model goes to {device!r}",
            fix=f"set {DEVICE}=cpu as well, or {INT8} to 0",
        )
    return value == "1"
