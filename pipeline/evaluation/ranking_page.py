"""A ranked sweep as an HTML page that needs no other file, as Markdown, and at the terminal."""

from pathlib import Path

from jinja2 import FileSystemLoader
from rich.console import Console
from rich.table import Table as TerminalTable

from pipeline.common.files import write_text
from pipeline.evaluation.ranked_sweep import RankedSweep
from pipeline.evaluation.report.page import HERE as REPORT_ROOM
from pipeline.evaluation.report.page import make_environment

HTML_PAGE, MARKDOWN_PAGE = "index.html", "sweep.md"


def write_ranking(folder: Path, ranked: RankedSweep) -> list[Path]:
    """Write `index.html` and `sweep.md`; returns their paths."""
    templates = make_environment().overlay(loader=FileSystemLoader(Path(__file__).parent))
    style = (REPORT_ROOM / "report.css").read_text(encoding="utf-8")
    for page, template in ((HTML_PAGE, "ranking.html.jinja"), (MARKDOWN_PAGE, "ranking.md.jinja")):
        write_text(folder / page, templates.get_template(template).render(sweep=ranked, style=style))
    return [folder / HTML_PAGE, folder / MARKDOWN_PAGE]


def print_ranking(ranked: RankedSweep, console: Console | None = None) -> None:
    """Print the tables of figures, the failures and the remarks."""
    console = console or Console(highlight=False)
    for table in ranked.tables:
        shown = TerminalTable(title=table.title, caption=table.caption, title_justify="left", caption_justify="left")
        for number, name in enumerate(table.columns):
            shown.add_column(name, justify="left" if number in table.words else "right", overflow="fold")
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown, markup=False)
    console.print(ranked.method, markup=False)
    for arm, error in ranked.failures:
        console.print(f"failed: {arm}\n{error}", markup=False)
    for remark in ranked.remarks:
        console.print(remark, markup=False)
