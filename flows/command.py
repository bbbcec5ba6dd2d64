"""What the flows' commands have in common: the server must answer, and the end state is the exit status."""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, cast
from urllib.error import URLError
from urllib.request import urlopen

from prefect import Flow
from prefect.settings import PREFECT_API_URL
from prefect.states import State

from pipeline.common.environment import be_quick
from pipeline.common.errors import HallmarkError

PATIENCE_SECONDS = 5.0


def run_flow(flow: Flow[..., Any], parameters: Callable[[], dict[str, Any]]) -> None:
    """Run a flow in this process, reporting to the server; exits with 0 if it completed, else with 1."""
    be_quick()
    try:
        arguments = parameters()
        check_server()
    except HallmarkError as error:
        sys.exit(f"hallmark: {error}")
    state: State[Any] = cast("Any", flow)(**arguments, return_state=True)
    if not state.is_completed():
        sys.exit(f"hallmark: {state.type.value.lower()}: {state.message}")
    print(state.message)


def check_server() -> str:
    """The address of the Prefect server. Raises HallmarkError if none answers there."""
    url = PREFECT_API_URL.value()
    if not url:
        raise HallmarkError("no Prefect server is named", where="prefect.toml: api.url", fix="run this in the project")
    try:
        urlopen(f"{url}/health", timeout=PATIENCE_SECONDS).close()
    except (URLError, OSError) as error:
        raise HallmarkError(
            f"no Prefect server answers ({error})",
            where=url,
            fix="prefect server start   (in another terminal; `dvc repro` builds without one)",
        ) from None
    return url


def parse_settings(pairs: Sequence[str], option: str = "--set") -> dict[str, Any]:
    """["seed=2", "model.depth=null", "source.path=a"] -> {"seed": 2, "model.depth": None, "source.path": "a"}."""
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not (name and equals):
            example = f"{option} finetune.learning_rate=1e-4"
            raise HallmarkError(f"{pair!r} is not NAME=VALUE", where=option, fix=example)
        try:
            settings[name] = json.loads(value)
        except ValueError:
            settings[name] = value
    return settings
