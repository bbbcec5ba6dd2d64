"""The flow `rebuild`: bring everything up to date, stage by stage, as `dvc repro` would.

    python -m flows.rebuild
    python -m flows.rebuild --set finetune.learning_rate=1e-4 --set seed=2

The graph is DVC's (`flows.plan`): one task per stage. What DVC calls fresh is shown as `Unchanged`, without a
process; the rest runs as process groups that die with the flow (`flows.stage`). DVC is the cache, so Prefect caches
nothing.
"""

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from flows.publish import start_early, take_publisher
from pipeline.common.environment import be_quick, be_quiet

if __name__ == "__main__":
    be_quick()
    start_early()  # MLflow takes longer to import than all that follows: both at once

from prefect import Task, flow, get_run_logger
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.states import Cancelled, Completed, Failed, State

from flows.artifacts import Result, result_page
from flows.command import parse_settings, run_flow
from flows.plan import Step, make_plan
from flows.stage import StageError, StageProcesses, StageStoppedError
from flows.workspace import workspace
from pipeline.common.errors import HallmarkError
from pipeline.common.layout import REPORT, home
from pipeline.tracking.build import build_environment, new_build_id

TRAINING_RETRIES = 2  # a stage on the GPU goes on from its checkpoint
RETRY_SECONDS = 2
REGISTER = "register@"


@flow(name="rebuild", persist_result=False)
def rebuild(params: dict[str, Any] | None = None) -> State[Any]:
    """Rebuild what is stale.

    Args:
        params: settings to build with instead of those in params.yaml, by dotted name:
            {"finetune.learning_rate": 1e-4}. The file stays as it is: such a build is made in a worktree.
    """
    be_quiet()
    logger = get_run_logger()
    root, state_folder, build = Path.cwd(), home(), new_build_id()
    environment = {**build_environment(build), "HALLMARK_HOME": str(state_folder)}
    publisher = take_publisher()
    try:
        with workspace(root, state_folder, build, params or {}, logger.info) as folder:
            work = Rebuild(folder, make_plan(folder), StageProcesses(folder, state_folder, environment))
            logger.info(f"build {build} in {folder}; stale: {', '.join(work.stale) or 'nothing'}")
            if work.stale:
                publisher.dismiss()  # it would hold its memory for as long as the build takes
                work.run()
                publisher = take_publisher()
                publisher.begin(folder, environment, [] if work.failures else work.tasks)
            else:  # nothing will change, so both go on at once
                publisher.begin(folder, environment, work.tasks)
                work.run()
            publisher.finish(logger.info, logger.warning)
            work.show(f"Build {build}")
            return work.final_state()
    except HallmarkError as error:
        return Failed(message=str(error))
    finally:
        publisher.dismiss()


@dataclass
class Rebuild:
    """One rebuild: its plan, and what became of each stage so far."""

    folder: Path
    steps: list[Step]
    processes: StageProcesses
    results: dict[str, Result] = field(default_factory=dict)
    hopeless: set[str] = field(default_factory=set)  # failed for a reason that another try does not mend

    @property
    def stale(self) -> list[str]:
        return [step.name for step in self.steps if step.stale]

    @property
    def tasks(self) -> list[str]:
        """The tasks of params.yaml whose models are registered."""
        return [step.name.removeprefix(REGISTER) for step in self.steps if step.name.startswith(REGISTER)]

    @property
    def failures(self) -> list[str]:
        return [result.message for result in self.results.values() if result.outcome == "failed"]

    def run(self) -> None:
        """Run every stage as a task, each after its upstream. However this ends, it leaves no process."""
        futures: dict[str, PrefectFuture[Any]] = {}
        progress = cast("UUID", create_progress_artifact(0.0, key="rebuild-progress")) if self.stale else None
        try:
            for step in self.steps:
                futures[step.name] = self._submit(step, [futures[name] for name in step.upstream])
            for number, future in enumerate(futures.values(), start=1):
                future.wait()
                if progress is not None:
                    update_progress_artifact(progress, 100.0 * number / len(futures))
        finally:
            self.processes.stop()

    def _submit(self, step: Step, upstream: list[PrefectFuture[Any]]) -> PrefectFuture[Any]:
        stage: Task[..., State[Any]] = Task(
            fn=lambda: self._run_stage(step),
            name=step.name,
            task_run_name=step.name,
            retries=TRAINING_RETRIES if step.gpu else 0,
            retry_delay_seconds=RETRY_SECONDS,
            retry_condition_fn=lambda _task, _run, _state: step.name not in self.hopeless,
            cache_policy=NO_CACHE,
            persist_result=False,
        )
        return stage.submit(wait_for=upstream)

    def _run_stage(self, step: Step) -> State[Any]:
        if not step.stale and all(self.results[name].outcome == "unchanged" for name in step.upstream):
            self.results[step.name] = Result("unchanged")
            return Completed(name="Unchanged", message="DVC finds nothing to do")
        logger, started = get_run_logger(), time.monotonic()
        logger.info(f"stale: {'; '.join(step.changes) or 'a stage before it was'}")
        try:
            outcome = self.processes.run(step.name, gpu=step.gpu, on_line=logger.info)
        except StageStoppedError as error:
            self.results[step.name] = Result("stopped", time.monotonic() - started, str(error))
            return Cancelled(message=str(error))
        except StageError as error:
            self.results[step.name] = Result("failed", time.monotonic() - started, str(error))
            if error.known:
                self.hopeless.add(step.name)
            raise
        self.results[step.name] = Result(outcome, time.monotonic() - started)
        return Completed(name="Completed" if outcome == "ran" else outcome.capitalize(), message=outcome)

    def show(self, heading: str) -> None:
        """Put the table of stages and figures, and the link to the report, where Prefect's UI shows them."""
        create_markdown_artifact(result_page(self.folder, self.steps, self.results, heading), key="rebuild-result")
        report = self.folder / REPORT / "index.html"
        if report.exists():
            create_link_artifact(report.as_uri(), "the report", key="rebuild-report")

    def final_state(self) -> State[Any]:
        """How the flow ends: failed with every stage's own message, or completed with a count."""
        if self.failures:
            return Failed(message="\n".join(self.failures))
        outcomes = [result.outcome for result in self.results.values()]
        counts = {outcome: outcomes.count(outcome) for outcome in dict.fromkeys(outcomes)}
        return Completed(message=", ".join(f"{count} {outcome}" for outcome, count in counts.items()))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m flows.rebuild", description="Rebuild what is stale, stage by stage."
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="a setting other than in params.yaml"
    )
    options = parser.parse_args()
    run_flow(rebuild, lambda: {"params": parse_settings(options.set)})


if __name__ == "__main__":
    main()
