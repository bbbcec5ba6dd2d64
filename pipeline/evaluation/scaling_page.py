"""A fitted ladder as an HTML page that needs no other file, as Markdown, and at the terminal."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from pipeline.common.files import write_text
from pipeline.evaluation.pages import CHARTED_HTML, CHARTED_MARKDOWN, print_table, write_pages
from pipeline.evaluation.report.charts import Fit, fit_chart, quantity
from pipeline.evaluation.scaling import Scaling
from pipeline.evaluation.tables import Table

TEMPLATES = {"index.html": CHARTED_HTML, "scaling.md": CHARTED_MARKDOWN}
ROWS = {
    "size": "N at the optimum",
    "tokens": "D at the optimum",
    "loss": "loss there, nats per target",
    "irreducible": "E",
    "alpha": "alpha",
    "beta": "beta",
}
LARGE = ("size", "tokens")
METHOD = (
    "L(N, D) = E + A / N^alpha + B / D^beta, fitted to the log of the losses with a Huber loss of 0.001 by L-BFGS from "
    "a grid of starts (Hoffmann et al. 2022, approach 3). N is the training's FLOPs per token over 6, so that "
    "FLOPs = 6 N D; D are the tokens trained on, L is the loss on unseen text. Intervals: bootstrap of the residuals."
)


def write_scaling(
    folder: Path, name: str, found: Scaling, advice: str, failures: Sequence[tuple[str, str]] = ()
) -> list[Path]:
    """Write `index.html`, `scaling.md` and the charts; returns their paths, the pages first.

    Args:
        folder: where to.
        name: of the ladder.
        found: the fit.
        advice: what to set in params.yaml for the optimum.
        failures: (arm, error) of the arms that were not built.
    """
    charts = draw_charts(found)
    for file_name, picture in charts.items():
        write_text(folder / file_name, picture + "\n")
    facts = {
        "title": f"Scaling {name}",
        "verdict": verdict(found),
        "mood": "good" if found.is_sure else "bad",
        "remarks": found.remarks,
        "advice": advice,
        "failures": failures,
    }
    tables = [figure_table(found), run_table(found)]
    pages = write_pages(folder, TEMPLATES, **facts, tables=tables, charts=charts, method=METHOD)
    return [*pages, *(folder / file_name for file_name in charts)]


def print_scaling(found: Scaling, advice: str, console: Console | None = None) -> None:
    """Print the optimum, the constants and the runs, with all that speaks against them."""
    console = console or Console(highlight=False)
    for table in (run_table(found), figure_table(found)):
        print_table(table, console)
    for line in (verdict(found), *found.remarks, advice):
        console.print(line, markup=False)


def verdict(found: Scaling) -> str:
    """The optimum in one sentence, and whether to trust it."""
    size, tokens = found.figures["size"], found.figures["tokens"]
    told = (
        f"For {found.flops:.2e} FLOPs: N = {quantity(size['value'])} ({quantity(size['low'])} to "
        f"{quantity(size['high'])}), D = {quantity(tokens['value'])} tokens ({quantity(tokens['low'])} to "
        f"{quantity(tokens['high'])}), {100 * found.confidence:g} % intervals."
    )
    return told if found.is_sure else f"{told} Do not choose by it:"


def figure_table(found: Scaling) -> Table:
    """The optimum and the constants, with their intervals."""
    rows = []
    for name, label in ROWS.items():
        figure = found.figures[name]
        numbers = [figure["value"], figure["low"], figure["high"]]
        rows.append([label, *(quantity(number) if name in LARGE else f"{number:.4f}" for number in numbers)])
    caption = f"{100 * found.confidence:g} % intervals of {found.samples} resamples."
    return Table(
        f"The optimum for {found.flops:.2e} FLOPs, and the constants", caption, ["", "fit", "low", "high"], rows
    )


def run_table(found: Scaling) -> Table:
    """Every run beside what the law says of it."""
    rows = []
    for run in sorted(found.runs, key=lambda run: (run.size, run.tokens)):
        fitted = found.law.loss(run.size, run.tokens)
        cells = [quantity(run.size), quantity(run.tokens), f"{6 * run.size * run.tokens:.2e}"]
        rows.append([run.name, *cells, f"{run.loss:.4f}", f"{fitted:.4f}", f"{run.loss / fitted - 1:+.2%}"])
    caption = f"The fit misses the losses by {found.error:.2%} (root mean square)."
    return Table("The ladder", caption, ["run", "N", "D", "FLOPs", "loss", "fitted", "off by"], rows)


def draw_charts(found: Scaling) -> dict[str, str]:
    """Loss over tokens for every size, and over the size at the budget; SVG by file name."""
    law, runs = found.law, found.runs
    over_tokens = []
    places = _places(min(run.tokens for run in runs), max(run.tokens for run in runs))
    for size in sorted({run.size for run in runs}):
        dots = [(run.tokens, run.loss) for run in runs if run.size == size]
        curve = [(tokens, law.loss(size, tokens)) for tokens in places]
        over_tokens.append(Fit(f"N = {quantity(size)}", curve, dots))
    size = found.figures["size"]
    low, high = min(size["low"], size["value"]), max(size["high"], size["value"])
    budget = [(n, law.loss(n, found.flops / 6 / n)) for n in _places(low / 3, high * 3)]
    inside = [(n, law.loss(n, found.flops / 6 / n)) for n in _places(low, high)]
    best = (size["value"], found.figures["loss"]["value"])
    return {
        "loss.svg": fit_chart("Loss on unseen text", "tokens D", "nats per target", over_tokens),
        "budget.svg": fit_chart(
            f"Loss at {found.flops:.2e} FLOPs",
            "size N",
            "nats per target",
            [
                Fit("the budget spent at this size, by the law", budget, []),
                Fit("the interval of the best", inside, [best]),
            ],
        ),
    }


def _places(low: float, high: float, count: int = 60) -> list[float]:
    return [float(place) for place in np.geomspace(low, high, count)]
