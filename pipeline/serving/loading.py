"""How every served file loads the packaged model that it answers with."""

import os
from collections.abc import Callable
from typing import Any


def load_packaged(package: str, load: Callable[[Any, str], Any]) -> Any:
    """Load a package, on the device that HALLMARK_DEVICE names; without it on a GPU if there is one.

    Args:
        package: its folder.
        load: of the kind of task.
    """
    import torch

    from pipeline.serving.package import read_package

    device = os.environ.get("HALLMARK_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    return load(read_package(package).folder, device)
