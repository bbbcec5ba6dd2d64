"""Facts to files: the HTML page, its Markdown twin, the charts, and the curves as tables for `dvc plots`."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from pipeline.common.files import write_text
from pipeline.evaluation.report.charts import Line, interval_chart, line_chart
from pipeline.evaluation.report.findings import MODEL, SCRATCH

HERE = Path(__file__).parent
HTML_PAGE, MARKDOWN_PAGE = "index.html", "report.md"
SCORE = "score"  # the column that all kinds share in `dvc plots`: the figure that each follows
ARMS = {"finetune": MODEL, "scratch": SCRATCH}


def write_report(folder: Path, facts: dict[str, Any]) -> None:
    """Write `index.html` (needs no other file), `report.md`, the charts that it shows, and the curves as CSV.

    Args:
        folder: where to.
        facts: see `pipeline.evaluation.report.facts.gather_facts`.
    """
    charts = draw_charts(facts)
    for name, picture in charts.items():
        write_text(folder / "charts" / f"{name}.svg", picture + "\n")
    for name, (columns, points) in curve_tables(facts).items():
        lines = [",".join(columns), *(",".join(repr(number) for number in point) for point in points)]
        write_text(folder / "curves" / f"{name}.csv", "\n".join(lines) + "\n")
    templates = make_environment()
    style = (HERE / "report.css").read_text(encoding="utf-8")
    for page in (HTML_PAGE, MARKDOWN_PAGE):
        source = templates.get_template(f"{page}.jinja")
        write_text(folder / page, source.render(**facts, charts=charts, style=style))


def make_environment() -> Environment:
    """Templates that escape every value in HTML, and refuse an unknown name."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=lambda name: name is not None and ".html" in name,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "interval": interval,
        "signed": signed,
        "md": markdown,
        "upper_first": upper_first,
        "code": code,
        "bytes": readable_bytes,
    }
    return environment


def draw_charts(facts: dict[str, Any]) -> dict[str, str]:
    """Every chart by name, as SVG."""
    pretrain = facts["pretrain"]
    losses = [Line("training loss", pretrain["loss"]), Line("on unseen text", pretrain["validation_losses"])]
    charts = {"pretrain-loss": line_chart("Loss in pretraining", "step", "nats per target", losses)}
    if pretrain["bits"]:
        five_gram = ("byte-level 5-gram", pretrain["ngram_bits_per_byte"])
        charts["pretrain-bits"] = line_chart(
            "Bits per byte of unseen text",
            "step",
            "bits per byte",
            [Line("pretrained model", pretrain["bits"])],
            [five_gram],
        )
    for task in facts["tasks"]:
        for headline, label in task["headlines"].items():
            title = f"Test {label} of {task['name']}, with intervals"
            charts[f"{task['name']}-{headline}"] = interval_chart(title, task["bars"][headline])
        charts[f"{task['name']}-curves"] = line_chart(
            f"Validation {task['headlines'][task['learned']]} of {task['name']}",
            "step",
            task["headlines"][task["learned"]],
            [Line(ARMS[arm], points) for arm, points in task["curves"].items()],
        )
    return charts


def curve_tables(facts: dict[str, Any]) -> Mapping[str, tuple[Sequence[str], Sequence[Sequence[float]]]]:
    """The curves as tables: file name to (columns, rows)."""
    tables = {
        "pretrain/loss": (("step", "loss"), facts["pretrain"]["loss"]),
        "pretrain/validation": (("step", "loss"), facts["pretrain"]["validation_losses"]),
        "pretrain/bits": (("step", "bits_per_byte"), facts["pretrain"]["bits"]),
    }
    for task in facts["tasks"]:
        for arm, points in task["curves"].items():
            tables[f"tasks/{task['name']}_{arm}"] = (("step", SCORE), points)
    return tables


def interval(figure: Mapping[str, float]) -> str:
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def signed(figure: Mapping[str, float] | None) -> str:
    if figure is None:
        return ""
    return f"{figure['value']:+.3f} ({figure['low']:+.3f} to {figure['high']:+.3f})"


def upper_first(text: str) -> str:
    return text[:1].upper() + text[1:]


def readable_bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1000
    return ""


def markdown(value: object) -> str:
    """Any text as plain text inside a line or a table cell of Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>#|~$&!])", r"\\\1", " ".join(str(value).split()))


def code(text: str) -> str:
    """Any text as a code block: indented, so that no sign in it can end it."""
    return "\n".join("    " + line for line in text.splitlines()) or "    "
