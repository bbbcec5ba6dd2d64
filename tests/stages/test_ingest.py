"""The door `ingest`, on the user's own files and on an installed library."""

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.common.errors import HallmarkError
from pipeline.common.files import read_json, sha256_folder
from pipeline.common.layout import RAW, RAW_DOCUMENTS, RAW_REJECTED, RAW_TASKS, metrics_file, raw_task
from pipeline.common.params import Params
from pipeline.stages import ingest
from pipeline.stages.door import Stage
from pipeline.tracking.journal import Journal

REPOSITORY = Path(__file__).resolve().parents[2]


def make_stage(params: dict[str, Any]) -> Stage:
    return Stage("ingest", "0" * 64, {}, Params.model_validate(params), Journal("0" * 64))


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HALLMARK_HOME", str(tmp_path / ".hallmark"))
    shutil.copy(REPOSITORY / "constraints.txt", tmp_path)
    return tmp_path


@pytest.fixture
def own(project: Path) -> dict[str, Any]:
    """Parameters that read two documents, one with a wrong byte, and a Chinese and English CSV of labels."""
    folder = project / "own"
    folder.mkdir()
    (folder / "a.txt").write_text("第一篇文章。\n" * 20, encoding="utf-8")
    (folder / "b.txt").write_bytes(b"\xff")
    rows = "".join(f"评论 review {number},{'好' if number % 3 else 'bad'}\n" for number in range(40))
    (folder / "labels.csv").write_text("text,label\n" + rows, encoding="utf-8")
    return {"source": {"kind": "files", "path": "own"}, "tasks": {"mood": {"path": "labels.csv"}}}


def test_own_files_become_tables_and_metrics(own: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    ingest.main(make_stage(own))
    documents, labelled = pd.read_parquet(RAW_DOCUMENTS), pd.read_parquet(raw_task("mood"))
    assert "".join(documents["text"]) == "第一篇文章。\n" * 20
    assert len(labelled) == 40
    assert pd.read_parquet(RAW_REJECTED)["id"].to_list() == ["b.txt:1"]
    metrics = read_json(metrics_file("ingest"))
    assert metrics["documents"] == {
        "rows": 2,
        "characters": 140,
        "splits": {"train": 1, "validation": 1},
        "sources": {"**/*.txt": 2},
    }
    assert metrics["rejected"] == 1
    counts = metrics["tasks"]["mood"]["labels"]
    assert sum(count for split in counts.values() for count in split.values()) == 40
    assert set(counts["train"]) == {"好", "bad"}
    assert "ingest  rejected: 1" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["files", "python-docs", "python-docs+files"])
def test_it_writes_the_same_bytes_twice(own: dict[str, Any], kind: str) -> None:
    source = {"kind": kind, "libraries": ["joblib"], "path": "own"}
    params = {"source": source, "tasks": {"library": {}} if kind == "python-docs" else own["tasks"]}
    ingest.main(make_stage(params))
    first = sha256_folder(RAW), metrics_file("ingest").read_bytes()
    ingest.main(make_stage(params))
    assert (sha256_folder(RAW), metrics_file("ingest").read_bytes()) == first


def test_files_and_libraries_are_read_together(own: dict[str, Any]) -> None:
    source = own["source"] | {"kind": "python-docs+files", "libraries": ["joblib"], "documents": {"essays": "*.txt"}}
    ingest.main(make_stage({"source": source, "tasks": own["tasks"] | {"library": {}}}))
    both, metrics = pd.read_parquet(RAW_DOCUMENTS), read_json(metrics_file("ingest"))
    assert set(metrics["tasks"]) == {"library", "mood"}
    assert set(metrics["versions"]) == {"joblib", "python"}
    assert metrics["documents"]["sources"] == both["source"].value_counts().to_dict()
    assert metrics["rejected"] == 1
    docs = read_alone({"kind": "python-docs", "libraries": ["joblib"]}, {"library": {}})
    essays = read_alone(own["source"] | {"documents": {"essays": "*.txt"}}, own["tasks"])
    pd.testing.assert_frame_equal(both, pd.concat([docs, essays], ignore_index=True))
    ingest.main(make_stage({"source": source, "tasks": own["tasks"]}))
    assert set(read_json(metrics_file("ingest"))["tasks"]) == {"mood"}  # nobody asked for the other


def test_what_one_kind_holds_out_is_in_no_document_of_the_other(own: dict[str, Any], project: Path) -> None:
    libraries = {"kind": "python-docs", "libraries": ["joblib"]}
    module = read_alone(libraries, {"library": {}})["text"][0]
    rows = [[module, "good", "test"], ["short", "bad", "train"], ["shorter", "good", "train"]]
    pd.DataFrame(rows, columns=["text", "label", "split"]).to_parquet(project / "own" / "labels.parquet")
    task = {"path": "labels.parquet", "split_column": "split"}
    both = read_alone(own["source"] | libraries | {"kind": "python-docs+files"}, {"mood": task})
    assert module not in set(both["text"])
    assert read_json(metrics_file("ingest"))["documents_held_out_by_tasks"] == 1


def read_alone(source: dict[str, Any], tasks: dict[str, Any]) -> pd.DataFrame:
    ingest.main(make_stage({"source": source, "tasks": tasks}))
    return pd.read_parquet(RAW_DOCUMENTS)


def test_installed_libraries_are_read_and_their_versions_recorded() -> None:
    ingest.main(make_stage({"source": {"libraries": ["joblib"]}}))
    metrics = read_json(metrics_file("ingest"))
    assert set(metrics["versions"]) == {"joblib", "python"}
    assert metrics["docstrings"] == metrics["near_duplicates_removed"] + metrics["tasks"]["library"]["rows"]
    assert metrics["documents"]["splits"].keys() == {"train", "validation"}


def test_other_tasks_of_the_documentation_are_made_by_naming_them() -> None:
    ingest.main(make_stage({"source": {"libraries": ["networkx"], "task_rows": 300}, "tasks": {"parameters": {}}}))
    assert [path.name for path in RAW_TASKS.iterdir()] == ["parameters.parquet"]
    metrics = read_json(metrics_file("ingest"))
    assert metrics["parameters.found"] == 300 + metrics["parameters.not_drawn"]
    assert metrics["parameters.left_out.unclear_default"] > 0
    assert set(metrics["tasks"]["parameters"]["spans"]["test"]) == {"name", "type", "default"}


def test_a_version_that_is_not_pinned_stops_it(project: Path) -> None:
    (project / "constraints.txt").write_text("joblib==0.1\n", encoding="utf-8")
    with pytest.raises(HallmarkError, match=r"0.1 is pinned\n  next: make install"):
        ingest.main(make_stage({"source": {"libraries": ["joblib"]}}))
    assert not RAW.exists()
