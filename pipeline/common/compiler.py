"""The C++ compiler that torch compiles with, and where it keeps what was compiled."""

import os
import shutil

from pipeline.common.layout import home


def find_compiler() -> str | None:
    """The path of this machine's C++ compiler: the one that CXX names, g++ or clang++; None if there is none."""
    return shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")


def prepare_inductor() -> None:
    """Keep Inductor's cache with this machine's state, and let it trust the processor about its vector instructions:
    to compile a trial of each takes 5 s. What the user set stays. Call it before Inductor is imported."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(home() / "inductor"))
    os.environ.setdefault("TORCHINDUCTOR_VEC_ISA_OK", "1")
