"""A ranked sweep as an HTML page that needs no other file, as Markdown, and at the terminal."""

from pathlib import Path

from rich.console import Console

from pipeline.evaluation.pages import print_table, write_pages
from pipeline.evaluation.ranked_sweep import RankedSweep

MARKDOWN_PAGE = "sweep.md"
TEMPLATES = {"index.html": "ranking.html.jinja", MARKDOWN_PAGE: "ranking.md.jinja"}


def write_ranking(folder: Path, ranked: RankedSweep) -> list[Path]:
    """Write `index.html` and `sweep.md`; returns their paths."""
    return write_pages(folder, TEMPLATES, sweep=ranked)


def print_ranking(ranked: RankedSweep, console: Console | None = None) -> None:
    """Print the tables of figures, the failures and the remarks."""
    console = console or Console(highlight=False)
    for table in ranked.tables:
        print_table(table, console)
    console.print(ranked.method, markup=False)
    for arm, error in ranked.failures:
        console.print(f"failed: {arm}\n{error}", markup=False)
    for remark in ranked.remarks:
        console.print(remark, markup=False)
