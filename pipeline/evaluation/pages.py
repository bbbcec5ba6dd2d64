"""What pages share (of sweeps, ladders, prompting): how they are written, and their tables at the terminal."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import FileSystemLoader
from rich.console import Console
from rich.table import Table as TerminalTable

from pipeline.common.files import write_text
from pipeline.evaluation.report.page import HERE as REPORT_ROOM
from pipeline.evaluation.report.page import make_environment
from pipeline.evaluation.tables import Table

# A verdict, remarks, charts and tables: `title`, `method`, `verdict`, `mood` (good, open or bad), `remarks`, `advice`,
# `failures` as (what, error), `charts` as SVG by file name, `tables`.
CHARTED_HTML, CHARTED_MARKDOWN = "charted.html.jinja", "charted.md.jinja"


def write_pages(folder: Path, templates: Mapping[str, str], **facts: Any) -> list[Path]:
    """Fill in templates of this room, with the report's filters and its `style`; returns the paths.

    Args:
        folder: where to.
        templates: file name -> template.
        facts: what the templates name.
    """
    environment = make_environment().overlay(loader=FileSystemLoader(Path(__file__).parent))
    style = (REPORT_ROOM / "report.css").read_text(encoding="utf-8")
    for page, template in templates.items():
        write_text(folder / page, environment.get_template(template).render(**facts, style=style))
    return [folder / page for page in templates]


def print_table(table: Table, console: Console) -> None:
    shown = TerminalTable(title=table.title, caption=table.caption, title_justify="left", caption_justify="left")
    for number, name in enumerate(table.columns):
        shown.add_column(name, justify="left" if number in table.words else "right", overflow="fold")
    for row in table.rows:
        shown.add_row(*row)
    console.print(shown, markup=False)
