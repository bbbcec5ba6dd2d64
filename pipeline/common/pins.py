"""The pinned versions of `constraints.txt`, and how what is installed differs from them."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeline.common.errors import HallmarkError

CONSTRAINTS = Path("constraints.txt")
MEND = 'python -m pip install --constraint constraints.txt --editable ".[dev]"'


@dataclass(frozen=True)
class Difference:
    """A package that is not installed as pinned; `installed` is None where it is missing."""

    name: str
    pinned: str
    installed: str | None

    def __str__(self) -> str:
        return f"{self.name} {self.installed or 'missing'}, pinned {self.pinned}"


def read_pins(path: Path | str = CONSTRAINTS) -> dict[str, str]:
    """Read `name==version` lines as {name: version}, names as they stand in the file.

    Raises:
        HallmarkError: there is no such file, or a line is no pin.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise HallmarkError("there is no such file", where=str(path), fix=f"git checkout {path}") from None
    pins: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        requirement = line.partition("#")[0].strip()
        name, separator, pinned = requirement.partition("==")
        if requirement and not (name and separator and pinned):
            raise HallmarkError(
                f"{requirement!r} is not of the form name==version", where=f"{path}:{number}", fix="make constraints"
            )
        if requirement:
            pins[name.strip()] = pinned.strip()
    return pins


def installed_version(name: str) -> str | None:
    """The installed version without its local part: torch 2.13.0+cpu and 2.13.0 are one release."""
    try:
        return version(name).partition("+")[0]
    except PackageNotFoundError:
        return None


def differences(pins: dict[str, str]) -> list[Difference]:
    """The packages of `pins` that are missing or of another version, by name."""
    found = [Difference(name, pinned, installed_version(name)) for name, pinned in pins.items()]
    return sorted((each for each in found if each.installed != each.pinned), key=lambda each: each.name.lower())
