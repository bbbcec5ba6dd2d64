"""The report of a whole build, and DVC's own views of it, without a network."""

import re
from pathlib import Path

import pytest

from pipeline.common.files import sha256_folder
from tests.toy import ToyProject

pytestmark = pytest.mark.end_to_end


@pytest.fixture(scope="module")
def project(built_project: ToyProject, tmp_path_factory: pytest.TempPathFactory) -> ToyProject:
    return built_project.copy(tmp_path_factory.mktemp("report") / "project")


def test_every_part_is_there(project: ToyProject) -> None:
    report = project.root / "report"
    page = (report / "index.html").read_text(encoding="utf-8")
    for part in ("Task package", "Pretraining", "Samples", "Data", "Validation", "Lineage", "The worst mistakes"):
        assert f"{part}</h" in page, part
    assert "asyncio" in page
    assert "bits per byte" in page
    assert (report / "report.md").exists()
    assert len(page.encode()) < 1_000_000


def test_a_report_written_again_has_the_same_bytes(project: ToyProject) -> None:
    before = sha256_folder(project.root / "report")
    project.repro("--single-item", "--force", "report")  # by one thread, after two
    assert sha256_folder(project.root / "report") == before


def test_plots_are_drawn_without_a_network(project: ToyProject) -> None:
    project.run("dvc", "plots", "show")
    page = (project.root / "dvc_plots" / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)\s*=\s*["']?https?:""", page)
    drawn = re.findall(r"vegaEmbed\('#([^']+)'", page)
    assert drawn == re.findall(r'<div id = "([^"]+)"', page)
    assert len(drawn) == 5  # two of pretraining, two arms, one confusion matrix
    assert any("confusion" in name for name in drawn)


def test_metrics_are_shown_and_compared(project: ToyProject) -> None:
    shown = project.run("dvc", "metrics", "show", "--json", "metrics/evaluate/package.json").stdout
    assert '"macro_f1"' in shown
    path = project.root / "metrics/evaluate/package.json"
    project.git("add", "--all")
    project.git("commit", "--quiet", "--message", "Built")
    kept = path.read_text(encoding="utf-8")
    try:
        path.write_text(kept.replace('"test_rows": ', '"test_rows": 1'), encoding="utf-8")
        assert "test_rows" in project.run("dvc", "metrics", "diff", "HEAD").stdout
    finally:
        path.write_text(kept, encoding="utf-8")


def test_the_page_of_plots_is_committed_beside_dvcs_settings() -> None:
    settings = Path(".dvc/config").read_text(encoding="utf-8")
    found = re.search(r"html_template = (\S+)", settings)
    assert found
    assert (Path(".dvc") / found[1]).exists()
