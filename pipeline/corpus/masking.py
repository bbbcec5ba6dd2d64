"""Hiding the names of libraries, so that a text must be told apart by what it says."""

import re
from collections.abc import Callable, Iterable

MASK = "lib"  # reads well in code: `import lib as lib`, `lib.linalg.norm`

# How people write a library, beside its distribution name and the names it is imported by.
ALIASES = {
    "dask": ["dd"],
    "jax": ["jnp"],
    "matplotlib": ["mpl", "plt", "pyplot"],
    "networkx": ["nx"],
    "numpy": ["np"],
    "pandas": ["pd"],
    "polars": ["pl"],
    "pyarrow": ["pa"],
    "scikit-learn": ["scikit learn", "scikit", "skl"],
    "scipy": ["sp"],
    "seaborn": ["sns"],
    "sqlalchemy": ["sa", "sqla"],
    "stdlib": ["python", "cpython", "standard library"],
    "sympy": ["sp"],
    "tensorflow": ["tf"],
    "torch": ["pytorch", "libtorch"],
}

# A word begins or ends beside anything but a letter or digit, and at a camel's hump.
BEGIN = r"(?:(?<![A-Za-z0-9])|(?<=[a-z])(?=[A-Z]))"
END = r"(?:(?![A-Za-z0-9])|(?<=[a-z])(?=[A-Z]))"


def name_pattern(names: Iterable[str]) -> re.Pattern[str]:
    """Finds each of `names` in any case as a whole word, in dotted paths and in identifiers.

    `numpy` is found in `NumPy`, `numpy.linalg`, `to_numpy` and `NumpyArray`, but `sp` is not found in `SPARSE`.
    """
    longest_first = sorted({name.lower() for name in names}, key=lambda name: (-len(name), name))
    initials = "".join(sorted({name[0] + name[0].upper() for name in longest_first}))
    any_name = "|".join(re.escape(name) for name in longest_first)
    return re.compile(f"(?=[{re.escape(initials)}]){BEGIN}(?i:{any_name}){END}")  # the look-ahead halves the time


def mask_names(names: Iterable[str]) -> Callable[[str], str]:
    """A function that replaces each of `names` in a text by `MASK`."""
    pattern = name_pattern(names)
    return lambda text: pattern.sub(MASK, text)
