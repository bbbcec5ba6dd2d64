"""Whether the libraries that a corpus is read from are the pinned versions: DVC cannot see what is installed."""

import re
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from pipeline.common.errors import HallmarkError, Problems

CONSTRAINTS = Path("constraints.txt")
STDLIB = "stdlib"


def check_installed(libraries: Iterable[str], constraints: Path = CONSTRAINTS) -> dict[str, str]:
    """Compare what is installed of `libraries` with `constraints`, and return the versions by library.

    A build's local part (`2.13.0+cpu`) is no difference. The standard library comes with Python and is not compared.

    Raises:
        HallmarkError: every library that is missing, unpinned or of another version, and the command that mends it.
    """
    pinned = read_constraints(constraints)
    problems = Problems(str(constraints))
    versions = {}
    for library in libraries:
        if library == STDLIB:
            continue
        pin = pinned.get(normalized(library))
        try:
            installed = metadata.version(library).partition("+")[0]
        except metadata.PackageNotFoundError:
            problems.add(f"{library}: is not installed" + (f", {pin} is pinned" if pin else " and not pinned"))
            continue
        if pin is None:
            problems.add(f"{library}: {installed} is installed, but no version is pinned here")
        elif pin != installed:
            problems.add(f"{library}: {installed} is installed, {pin} is pinned")
        versions[library] = installed
    problems.raise_if_any(
        fix="make install; for a library that is not pinned, add it to pyproject.toml and type `make constraints` first"
    )
    return versions


def read_constraints(path: Path) -> dict[str, str]:
    """The `name==version` lines of a constraints file, by normalized name, without local parts."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise HallmarkError("there is no such file", where=str(path), fix=f"git checkout {path}") from None
    found = (re.match(r"\s*([A-Za-z0-9._-]+)\s*==\s*([^\s;+#]+)", line) for line in lines)
    return {normalized(match[1]): match[2] for match in found if match}


def normalized(name: str) -> str:
    """A distribution's name as package indexes compare it (PEP 503): `Flask_Cors` -> `flask-cors`."""
    return re.sub(r"[-_.]+", "-", name).lower()
