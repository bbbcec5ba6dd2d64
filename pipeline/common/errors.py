"""The one error type that users see: what happened, where, and what to type next."""

from collections.abc import Iterable


class HallmarkError(Exception):
    """A fault with its place and its mend.

    Args:
        what: what happened, in one sentence.
        where: the file, row or key it happened at, if there is one.
        fix: what to type or change next.
    """

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        lines = [f"{where}: {what}" if where else what]
        if fix:
            lines.append(f"  next: {fix}")
        super().__init__("\n".join(lines))


class Problems:
    """Collects every problem of one file or setting, so that all are reported at once."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.found: list[str] = []

    def add(self, problem: str) -> None:
        self.found.append(problem)

    def raise_if_any(self, fix: str | None = None) -> None:
        """Raise one `HallmarkError` that lists every problem found, if there are any."""
        if self.found:
            count = f"{len(self.found)} problem{'s' if len(self.found) > 1 else ''}"
            listing = "".join(f"\n  - {problem}" for problem in self.found)
            raise HallmarkError(f"{count}{listing}", where=self.where, fix=fix)


def allowed(names: Iterable[object]) -> str:
    """The allowed values of a setting, as they are printed in every message."""
    return "allowed: " + ", ".join(str(name) for name in names)
