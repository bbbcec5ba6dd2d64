"""The figures of a task as an HTML page that needs no other file, as Markdown, as a chart, and at the terminal."""

from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.common.files import write_text
from pipeline.common.params import Prompting
from pipeline.evaluation.pages import CHARTED_HTML, CHARTED_MARKDOWN, print_table, write_pages
from pipeline.evaluation.report.charts import Line, line_chart
from pipeline.evaluation.report.page import interval, signed
from pipeline.evaluation.tables import Table
from pipeline.prompting.experiment import ZERO_SHOT, Prompted, Refusal
from pipeline.prompting.figures import LEADING, Condition, Measured

TEMPLATES = {"index.html": CHARTED_HTML, "prompting.md": CHARTED_MARKDOWN}
CHART = "macro_f1.svg"
# What a condition is compared with, and how a sentence calls it.
LEADS = {"no examples": "with none", "random": "random ones", "no calibration": "without calibration"}


def write_prompting(folder: Path, task: str, settings: Prompting, prompted: Prompted, found: Measured) -> None:
    """Write `index.html`, `prompting.md` and the chart."""
    charts = {CHART: draw_chart(task, found)}
    write_text(folder / CHART, charts[CHART] + "\n")
    facts: dict[str, Any] = {
        "title": f"Prompting for {task}",
        "method": method(prompted, found),
        "verdict": verdict(found),
        "mood": "open",
        "remarks": [*sentences(found), *map(describe_refusal, prompted.refusals)],
        "advice": f"Template: {settings.template!r}. Answers by {settings.answer}, calibration {settings.calibration}.",
        "failures": [],
    }
    write_pages(folder, TEMPLATES, **facts, tables=[figure_table(found), difference_table(found)], charts=charts)


def print_prompting(prompted: Prompted, found: Measured, console: Console | None = None) -> None:
    """Print the table, what is outside the noise, and what was refused."""
    console = console or Console(highlight=False)
    print_table(figure_table(found), console)
    for line in (verdict(found), *sentences(found), *map(describe_refusal, prompted.refusals)):
        console.print(line, markup=False)


def figure_table(found: Measured) -> Table:
    """What each condition reaches."""
    majority = found.majority
    rows = [["majority label", "", f"{majority['accuracy']:.3f}", f"{majority[LEADING]:.3f}", ""]]
    for condition in found.conditions:
        accuracy = f"{condition.figures['accuracy']['value']:.3f}"
        spread = f"{condition.lowest:.3f} to {condition.highest:.3f}" if condition.runs > 1 else ""
        macro_f1 = interval(condition.figures[LEADING])
        rows.append([condition.method, str(condition.shots), accuracy, macro_f1, spread])
    caption = f"{_intervals(found)} With few seeds they are rather too narrow."
    return Table("What it reaches", caption, ["examples", "number", "accuracy", "macro-F1", "single runs"], rows)


def difference_table(found: Measured) -> Table:
    """What each condition gains over its like without calibration or demonstrations, and over random ones."""
    leads = [name for name in LEADS if any(name in condition.leads for condition in found.conditions)]
    rows = [
        [condition.method, str(condition.shots), *(signed(condition.leads.get(name)) for name in leads)]
        for condition in found.conditions
    ]
    caption = f"{_intervals(found)} Each difference is of the same texts and seeds."
    columns = ["examples", "number", *(f"over {lead}" for lead in leads)]
    return Table("Differences of macro-F1", caption, columns, rows)


def _intervals(found: Measured) -> str:
    return f"{100 * found.confidence:g} % intervals over texts and seeds, {found.samples:,} resamples."


def method(prompted: Prompted, found: Measured) -> str:
    """What was asked, and of what texts."""
    facts = prompted.facts
    return (
        f"{facts['test_texts']} test texts, {facts['test_texts_cut']} of them cut to {facts['text_tokens']} tokens; "
        f"examples from {facts['pool_texts']} training texts of each seed, {facts['pool_texts_cut']} of them "
        f"cut in the first; a context of {facts['context_tokens']} "
        f"tokens. {max(condition.runs for condition in found.conditions)} runs of each, by seed and order."
    )


def verdict(found: Measured) -> str:
    """How many of the comparisons are outside the noise."""
    claims = sum(len(condition.claims) for condition in found.conditions)
    level = f"{100 * (1 - found.confidence):.2g} % shared by all"
    return f"Outside the noise: {claims} of {found.comparisons} differences (paired bootstrap, {level})."


def sentences(found: Measured) -> list[str]:
    """The differences that are outside the noise, one sentence each."""
    return [
        f"{_called(condition)}: {claim} than {LEADS[name]}, {signed(condition.leads[name])}."
        for condition in found.conditions
        for name, claim in condition.claims.items()
    ]


def _called(condition: Condition) -> str:
    if condition.method == ZERO_SHOT:
        return "No examples"
    return f"{condition.shots} {condition.method}"


def describe_refusal(refusal: Refusal) -> str:
    """What did not fit, with the count."""
    return (
        f"Refused: {refusal.method} with {refusal.shots}: {refusal.too_long:,} of {refusal.prompts:,} prompts do not "
        f"fit the context, the longest needs {refusal.longest:,} tokens. Lower text_tokens or shots."
    )


def draw_chart(task: str, found: Measured) -> str:
    """Macro-F1 over the number of examples, with intervals, a curve for each method; SVG."""
    start = [condition for condition in found.conditions if condition.method == ZERO_SHOT]
    names = dict.fromkeys(condition.method for condition in found.conditions if condition.shots)
    lines = []
    for name in names or [ZERO_SHOT]:
        own = [condition for condition in found.conditions if condition.method == name and condition.shots]
        figures = {condition.shots: condition.figures[LEADING] for condition in start + own}
        points = [(float(shots), figure["value"]) for shots, figure in figures.items()]
        spread = [(float(shots), figure["low"], figure["high"]) for shots, figure in figures.items()]
        lines.append(Line(name, points, spread))
    title = f"Macro-F1 of prompting for {task}, with intervals"
    return line_chart(title, "examples in the prompt", "macro-F1", lines, [("majority label", found.majority[LEADING])])
