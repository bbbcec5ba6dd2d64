"""The flow `scaling`: a ladder of small trainings to the best size and length for a budget of FLOPs.

    python -m flows.scaling --depths 2,3,4 --tokens 400k,800k,1600k --budget 3e14

Every rung is an arm as `flows.sweep` builds it, in a worktree of its own with the shared cache. Started again it goes
on: what is finished is not built again, and another budget costs only the fit.
"""

import argparse
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.states import Completed, Failed, State

from flows.arm_build import ArmBuilder, Record
from flows.arms import SweepPlan, parse_grid, plan_sweep
from flows.command import run_flow
from flows.sweep import Sweep, track
from flows.workspace import exclusive
from pipeline.common.environment import be_quiet
from pipeline.common.errors import HallmarkError, Problems
from pipeline.common.layout import home
from pipeline.common.params import Params, load_params
from pipeline.evaluation.ranked_sweep import arm_label
from pipeline.evaluation.scaling import Run, Scaling, fit_scaling, rungs_missing
from pipeline.evaluation.scaling_page import print_scaling, write_scaling
from pipeline.tracking.mirror import is_off

LOSS, FLOPS, TOKENS = "pretrain.validation_loss", "pretrain.training_flops", "pretrain.tokens"
DEPTH, STEPS = "model.depth", "pretrain.steps"
UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "B": 10**9}
EXAMPLE = "python -m flows.scaling --depths 2,3,4 --tokens 400k,800k,1600k --budget 3e14"
MOST_DEPTH = 128  # of the dial, when the depth nearest to the optimum is looked for


@flow(name="scaling", persist_result=False)
def scaling(
    depths: list[int],
    tokens: list[int],
    budget: float | None = None,
    seeds: list[int] | None = None,
    name: str = "scaling",
    parallel: int = 1,
) -> State[Any]:
    """Train every depth on every number of tokens, fit the law, and say what is best for the budget.

    Args:
        depths: values of model.depth, three or more.
        tokens: numbers of tokens to train on, three or more.
        budget: FLOPs of the training that the ladder is for; ten times the largest rung's without it.
        seeds: each rung is built with each; 1 without it.
        name: names the folder of the results.
        parallel: rungs built at once.
    """
    be_quiet()
    logger = get_run_logger()
    try:
        root, begun = Path.cwd(), time.time()
        plan = plan_ladder(depths, tokens, seeds or [1], name, parallel, root)
        folder = home() / "scaling" / plan.name
        with exclusive(folder.with_suffix(".lock"), logger.info):
            work = Sweep(plan, ArmBuilder(root, home(), folder / "arms", plan.targets))
            work.run()
            records = work.in_order()
            found = fit_records(records, budget)
            advice = advise(load_params(), vocabulary(records), found)
            failures = [(arm_label(record), str(record["error"])) for record in records if record["error"]]
            pages = write_scaling(folder, plan.name, found, advice, failures)
        print_scaling(found, advice)
        create_markdown_artifact(pages[1].read_text(encoding="utf-8"), key="scaling-result")
        create_link_artifact(pages[0].as_uri(), "the fitted law", key="scaling-page")
        if not is_off():
            track(plan, work, pages, begun)
    except HallmarkError as error:
        return Failed(message=str(error))
    if failures:
        listing = "\n".join(f"{arm}: {error}" for arm, error in failures)
        return Failed(message=f"{len(failures)} of {len(plan.arms)} rungs failed\n{listing}")
    return Completed(message=f"{work.built} rungs built, {len(records) - work.built} finished before; {pages[0]}")


def plan_ladder(
    depths: Sequence[int], tokens: Sequence[int], seeds: Sequence[int], name: str, parallel: int, root: Path
) -> SweepPlan:
    """The ladder as a sweep up to `pretrain`: a token count is turned into steps of pretrain.batch_tokens.

    Raises:
        HallmarkError: it is too small to fit anything, or a setting is wrong; all at once.
    """
    params = load_params(root / "params.yaml")
    problems = Problems("the ladder")
    lengths = [count // params.pretrain.batch_tokens for count in tokens]
    if params.model.init_from is not None:
        problems.add(f"model.init_from is {params.model.init_from}: a law is of trainings from random weights")
    if params.model.hidden_size is not None:
        problems.add("model.hidden_size is set: the depth must bring its width with it, so leave it null")
    for count, steps in zip(tokens, lengths, strict=True):
        if steps < 1:
            problems.add(f"{count} tokens are no batch of {params.pretrain.batch_tokens} (pretrain.batch_tokens)")
    rungs = [Run("", depth, steps, 1.0) for depth in depths for steps in lengths]
    problems.found += rungs_missing(rungs)
    problems.raise_if_any(fix=EXAMPLE)
    request = {
        "name": name,
        "grid": {DEPTH: list(dict.fromkeys(depths)), STEPS: list(dict.fromkeys(lengths))},
        "seeds": list(seeds),
        "target": "pretrain",
        "metric": LOSS,
        "parallel": parallel,
    }
    return plan_sweep(request, root)


def fit_records(records: Sequence[Record], budget: float | None = None, samples: int = 200) -> Scaling:
    """Fit the law to the arms that came to an end; `samples` resamples are behind each interval.

    Raises:
        HallmarkError: what is left is too small to fit anything.
    """
    runs = [
        Run(arm_label(record), round(figures[FLOPS] / figures[TOKENS]) / 6, figures[TOKENS], figures[LOSS])
        for record in records
        if not record["error"]
        for figures in [record["figures"]]
    ]
    if not runs:
        errors = "\n".join(str(record["error"]) for record in records)
        raise HallmarkError(f"no rung was built\n{errors}", where="the ladder", fix=EXAMPLE)
    largest = max(6 * run.size * run.tokens for run in runs)
    return fit_scaling(runs, 10 * largest if budget is None else budget, samples=samples)


def vocabulary(records: Sequence[Record]) -> int:
    """The vocabulary that the ladder was trained with."""
    return int(next(record["figures"]["tokenizer.vocab_size"] for record in records if not record["error"]))


def advise(params: Params, vocab_size: int, found: Scaling) -> str:
    """What to set for the optimum: the depth whose N is nearest, and the steps that the budget then pays for."""
    from pipeline.model.accounting import body_flops_per_token, head_flops_per_token
    from pipeline.model.config import derive_config

    size = found.figures["size"]["value"]
    sizes: dict[int, float] = {}
    for depth in range(1, MOST_DEPTH + 1):
        config, _ = derive_config(params.model.model_copy(update={"depth": depth}), vocab_size)
        if config.family != "decoder":
            return "Set model.depth so that training_flops_per_token, which `pretrain` prints, is about 6 N."
        sizes[depth] = (body_flops_per_token(config) + head_flops_per_token(config)) / 6
        if sizes[depth] > 2 * size:
            break
    depth = min(sizes, key=lambda depth: abs(sizes[depth] / size - 1))
    steps = max(1, round(found.flops / 6 / sizes[depth] / params.pretrain.batch_tokens))
    return (
        f"Nearest on the dial: {DEPTH}: {depth} (N = {sizes[depth] / 1e6:.2f}M) with {STEPS}: {steps} of "
        f"{params.pretrain.batch_tokens} tokens."
    )


def parse_count(text: str, option: str) -> int:
    """ "400k" -> 400,000; also M, and G or B for billions."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([kMGB]?)", text.strip().replace("_", ""))
    if not match:
        raise HallmarkError(f"{text!r} is no number of tokens", where=option, fix=f"{option} 400k,800k,1.6M")
    return round(float(match[1]) * UNITS[match[2]])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m flows.scaling", description="Which size, trained on how many tokens, is best for a budget?"
    )
    parser.add_argument("--depths", required=True, metavar="2,3,4", help="values of model.depth, three or more")
    parser.add_argument("--tokens", required=True, metavar="400k,800k,1600k", help="tokens to train on, three or more")
    parser.add_argument("--budget", type=float, metavar="FLOPS", help="of one training; 10 x the largest rung's")
    parser.add_argument("--seeds", default="1", metavar="1,2,3", help="each rung is built with each of them")
    parser.add_argument("--name", default="scaling", help="names the folder of the results, .hallmark/scaling/NAME")
    parser.add_argument("--parallel", type=int, default=1, metavar="N", help="rungs built at once")
    options = parser.parse_args()
    be_quiet()
    run_flow(scaling, lambda: _parameters(options, Path.cwd()))


def _parameters(options: argparse.Namespace, root: Path) -> dict[str, Any]:
    """The flow's parameters from the command line; checked here, so that a wrong one needs no server to be told."""
    lists = parse_grid([f"depths={options.depths}", f"seeds={options.seeds}"])
    tokens = [parse_count(text, "--tokens") for text in options.tokens.split(",")]
    shared = {"seeds": lists["seeds"], "name": options.name, "parallel": options.parallel}
    plan_ladder(lists["depths"], tokens, root=root, **shared)
    return {"depths": lists["depths"], "tokens": tokens, "budget": options.budget, **shared}


if __name__ == "__main__":
    main()
