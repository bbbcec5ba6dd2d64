"""The flow `promote`: may the newest model become champion? Thin: the decision is `pipeline.tracking.promotion`'s.

python -m flows.promote
python -m flows.promote --task library
python -m flows.promote --task library --rollback
"""

import argparse
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed, Failed, State

from flows.command import run_flow
from pipeline.common.environment import be_quiet
from pipeline.common.errors import HallmarkError
from pipeline.common.params import load_params


@flow(name="promote", persist_result=False)
def promote(task: str | None = None, rollback: bool = False) -> State[Any]:
    """Decide on the challenger of a task, or of every task.

    Args:
        task: of params.yaml; all of them without it.
        rollback: make the version before the champion champion again, instead.
    """
    be_quiet()
    from pipeline.tracking import promotion

    logger, decisions = get_run_logger(), []
    try:
        for name in [task] if task else load_params().tasks:
            decision = promotion.rollback(name) if rollback else promotion.promote(name)
            for line in decision.lines():
                logger.info(line)
            table = "\n".join(f"| {key} | {value} |" for key, value in decision.rows())
            create_markdown_artifact(f"| | |\n|---|---|\n{table}\n", key=f"promotion-{name.replace('_', '-')}")
            decisions.append(f"{name} version {decision.challenger}: {decision.verdict}, {decision.action}")
    except HallmarkError as error:
        return Failed(message=str(error))
    return Completed(message="; ".join(decisions))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m flows.promote", description="Promote challengers that are better.")
    parser.add_argument("--task", help="a task of params.yaml; all of them without it")
    parser.add_argument("--rollback", action="store_true", help="champion <- previous")
    options = parser.parse_args()
    run_flow(promote, lambda: {"task": options.task, "rollback": options.rollback})


if __name__ == "__main__":
    main()
