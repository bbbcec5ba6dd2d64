"""The flow `sweep`: settings x seeds, each in its own worktree, to a ranked table that tells difference from noise.

    python -m flows.sweep --grid finetune.learning_rate=1e-4,3e-4 --seeds 1,2,3
    python -m flows.sweep sweep.yaml --parallel 2

Started again under the same name it goes on: what is finished is not built again (`flows.arm_build`).
"""

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect import Task, flow, get_run_logger
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.futures import PrefectFuture
from prefect.states import Cancelled, Completed, Failed, State
from prefect.task_runners import ThreadPoolTaskRunner

from flows.arm_build import ArmBuilder, Record, failed_record, is_hopeless
from flows.arms import ArmPlan, SweepPlan, parse_grid, plan_sweep, read_request
from flows.command import run_flow
from flows.rebuild import RETRY_SECONDS, TRAINING_RETRIES
from flows.stage import StageStoppedError
from flows.workspace import exclusive
from pipeline.common.environment import be_quiet
from pipeline.common.errors import HallmarkError
from pipeline.common.layout import home
from pipeline.evaluation.ranked_sweep import RankedSweep, rank_sweep
from pipeline.evaluation.ranking_page import MARKDOWN_PAGE, print_ranking, write_ranking
from pipeline.tracking.mirror import is_off


@flow(name="sweep", persist_result=False)
def sweep(
    name: str | None = None,
    grid: dict[str, list[Any]] | None = None,
    settings: list[dict[str, Any]] | None = None,
    seeds: list[int] | None = None,
    target: str | list[str] | None = None,
    metric: str | list[str] | None = None,
    parallel: int = 1,
) -> State[Any]:
    """Build every setting with every seed, and rank the settings.

    Args:
        name: names the folder of the results; by default the names of what is varied.
        grid: values of settings by dotted name: {"model.depth": [2, 4]}; every combination is built.
        settings: instead of a grid, the settings themselves: [{"model.depth": 2}, {"model.depth": 4}].
        seeds: each setting is built with each; 1, 2, 3 without it.
        target: stages to build, with what they need; by default those that the figures come from.
        metric: figures to compare by: "pretrain.bits_per_byte", "tasks.library.macro_f1".
        parallel: arms built at once.
    """
    be_quiet()
    logger = get_run_logger()
    given = {"name": name, "grid": grid, "list": settings, "seeds": seeds, "target": target, "metric": metric}
    request = {key: value for key, value in given.items() if value is not None} | {"parallel": parallel}
    try:
        root, begun = Path.cwd(), time.time()
        plan = plan_sweep(request, root)
        folder = home() / "sweeps" / plan.name
        with exclusive(folder.with_suffix(".lock"), logger.info):
            work = Sweep(plan, ArmBuilder(root, home(), folder / "arms", plan.targets))
            work.run()
            ranked = rank_sweep(plan.name, work.in_order(), plan.metrics)
            pages = write_ranking(folder, ranked)
        print_ranking(ranked)
        work.show(pages)
        if not is_off():
            track(plan, work, pages, begun)
        return work.final_state(ranked, pages[0])
    except HallmarkError as error:
        return Failed(message=str(error))


@dataclass
class Sweep:
    """One run of a sweep: its plan, and what became of each arm so far."""

    plan: SweepPlan
    builder: ArmBuilder
    records: dict[str, Record] = field(default_factory=dict)  # by the arm's id
    built: int = 0
    hopeless: set[str] = field(default_factory=set)  # failed for a reason that another try does not mend

    def run(self) -> None:
        """Build every arm as a task; one that fails stops no other. However this ends, it leaves no process."""
        with ThreadPoolTaskRunner(max_workers=self.plan.parallel) as runner:
            try:
                futures: list[PrefectFuture[Any]] = [
                    runner.submit(self._task(arm), parameters={}) for arm in self.plan.arms
                ]
                for future in futures:
                    future.wait()
            finally:
                self.builder.stop()

    def _task(self, arm: ArmPlan) -> Task[..., State[Any]]:
        return Task(
            fn=lambda: self._build(arm),
            name=arm.label,
            task_run_name=arm.label,
            retries=TRAINING_RETRIES,  # what was built stays in the cache, and a training goes on from its checkpoint
            retry_delay_seconds=RETRY_SECONDS,
            retry_condition_fn=lambda _task, _run, _state: arm.id not in self.hopeless,
            cache_policy=NO_CACHE,
            persist_result=False,
        )

    def _build(self, arm: ArmPlan) -> State[Any]:
        logger = get_run_logger()
        try:
            record, built = self.builder.build(arm, logger.info)
        except StageStoppedError as error:
            return Cancelled(message=str(error))
        except Exception as error:
            self.records[arm.id] = failed_record(arm, error)
            if is_hopeless(error):
                self.hopeless.add(arm.id)
            raise
        self.records[arm.id] = record
        self.built += built
        if not built:
            logger.info(f"{arm.label}: finished before, as build {record['build']}")
        return Completed(name="Completed" if built else "Unchanged", message="built" if built else "finished before")

    def in_order(self) -> list[Record]:
        """The records of the arms that came to an end."""
        return [self.records[arm.id] for arm in self.plan.arms if arm.id in self.records]

    def show(self, pages: list[Path]) -> None:
        """Put the result where Prefect's UI shows it."""
        texts = [page.read_text(encoding="utf-8") for page in pages if page.name == MARKDOWN_PAGE]
        create_markdown_artifact(texts[0], key="sweep-result")
        create_link_artifact(pages[0].as_uri(), "the ranked table", key="sweep-table")

    def final_state(self, ranked: RankedSweep, page: Path) -> State[Any]:
        """Failed if an arm did, with every arm's own message; else completed with a count."""
        if ranked.failures:
            listing = "\n".join(f"{arm}: {error}" for arm, error in ranked.failures)
            return Failed(message=f"{len(ranked.failures)} of {len(self.plan.arms)} arms failed\n{listing}")
        before = len(self.records) - self.built
        return Completed(message=f"{self.built} arms built, {before} finished before; {page}")


def track(plan: SweepPlan, work: Sweep, pages: list[Path], begun: float) -> None:
    """Send the sweep, its arms and its pages to MLflow; a warning says if that failed."""
    from pipeline.tracking.sweeps import send_sweep

    logger = get_run_logger()
    line = send_sweep(plan.describe(), work.in_order(), pages, begun)
    (logger.warning if line.startswith("warning: ") else logger.info)(line)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m flows.sweep", description="Which setting is better here, and which differences are noise?"
    )
    parser.add_argument("file", nargs="?", type=Path, help="a sweep as YAML; what is typed here goes before it")
    parser.add_argument(
        "--grid", action="append", default=[], metavar="NAME=VALUE,VALUE", help="a setting and its values; every "
        "combination is built, and the first is the reference"
    )  # fmt: skip
    parser.add_argument("--seeds", metavar="1,2,3", help="each setting is built with each of them")
    parser.add_argument("--name", help="names the folder of the results, .hallmark/sweeps/NAME")
    parser.add_argument("--target", action="append", help="build up to this stage: evaluate, pretrain")
    parser.add_argument("--metric", action="append", help="compare by this figure: pretrain.bits_per_byte")
    parser.add_argument("--parallel", type=int, metavar="N", help="arms built at once")
    options = parser.parse_args()
    be_quiet()
    run_flow(sweep, lambda: _parameters(options))


def _parameters(options: argparse.Namespace) -> dict[str, Any]:
    """The flow's parameters from the command line; checked here, so that a wrong one needs no server to be told."""
    request = read_request(options.file) if options.file else {}
    for key in ("name", "target", "metric", "parallel"):
        if getattr(options, key) is not None:
            request[key] = getattr(options, key)
    if options.grid:
        request = {key: value for key, value in request.items() if key != "list"} | {"grid": parse_grid(options.grid)}
    if options.seeds:
        request["seeds"] = parse_grid([f"seeds={options.seeds}"])["seeds"]
    plan_sweep(request, Path.cwd())
    return {"settings" if key == "list" else key: value for key, value in request.items()}


if __name__ == "__main__":
    main()
