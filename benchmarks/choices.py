"""What the options of a benchmark choose from."""

from collections.abc import Sequence
from importlib.util import find_spec

from pipeline.common.errors import HallmarkError, allowed


def choose(asked: str, known: Sequence[str], option: str, what: str = "") -> list[str]:
    """The names of a list with commas, in the order of `known`; `all` are all.

    Raises:
        HallmarkError: one is not known; the message calls it `what`.
    """
    names = known if asked == "all" else asked.split(",")
    if unknown := [name for name in names if name not in known]:
        raise HallmarkError(f"there is no {what}{', '.join(unknown)}; {allowed(known)}", where=option)
    return [name for name in known if name in names]


def leave_out_trainer(arms: list[str]) -> tuple[list[str], dict[str, str]]:
    """The arms that can run; and for those that need packages that are not here, what to install.

    Raises:
        HallmarkError: none is left.
    """
    missing = [name for name in ("transformers", "accelerate") if find_spec(name) is None]
    if not missing:
        return arms, {}
    why = f"there is no {' and no '.join(missing)}; pip install -e .[bench]"
    kept = [arm for arm in arms if not arm.startswith("trainer")]
    if not kept:
        raise HallmarkError(why, where="--arms")
    return kept, {arm: why for arm in arms if arm not in kept}
