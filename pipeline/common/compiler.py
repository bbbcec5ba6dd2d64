"""The C++ compiler that torch compiles with, and where it keeps what was compiled."""

import os
import shutil

from pipeline.common.layout import home


def find_compiler() -> str | None:
    """The path of this machine's C++ compiler: the one that CXX names, g++ or clang++; None if there is none."""
    return shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")


def keep_compilations() -> None:
    """Keep Inductor's cache with this machine's state, unless the user chose a place. Call it before Inductor is
    imported: it then takes a temporary folder."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(home() / "inductor"))
