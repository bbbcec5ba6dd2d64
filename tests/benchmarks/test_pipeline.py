"""The benchmark of the pipeline: its arithmetic, and one real run at toy size."""

import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks import checkout, pipeline
from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.checkout import REPOSITORY, Checkout
from benchmarks.servers import prefect_server
from benchmarks.tables import format_table
from pipeline.common.errors import HallmarkError
from tests.toy import ToyProject

MEASURED: dict[str, dict[str, Any]] = {
    "bare": {
        "seconds": 100.0,
        "commands": {"ingest": 40.0, "pretrain": 60.0},
        "stages": {
            "ingest": {"seconds": 38.0, "peak_memory_bytes": 10**9},
            "pretrain": {"seconds": 57.0, "peak_memory_bytes": 2 * 10**9, "tokens_per_second": 12_345.6},
        },
        "no_op": [],
    },
    "dvc": {
        "seconds": 104.0,
        "stages": {
            "ingest": {"seconds": 37.0, "peak_memory_bytes": 10**9},
            "pretrain": {"seconds": 59.0, "peak_memory_bytes": 2 * 10**9, "tokens_per_second": 12_000.0},
        },
        "no_op": [1.5, 0.5, 0.7],
    },
}


def test_a_table_has_aligned_columns() -> None:
    rows = [("ingest", "4.0"), ("pretrain", "60.0")]
    assert format_table(("stage", "s"), rows).splitlines() == [
        "stage        s",
        "--------  ----",
        "ingest     4.0",
        "pretrain  60.0",
    ]


def test_an_unknown_benchmark_or_arm_lists_the_allowed_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["nothing"])
    told = capsys.readouterr().err
    assert all(name in told.partition("choose from")[2] for name in BENCHMARKS)
    with pytest.raises(SystemExit, match="no arm fast; allowed: bare, dvc, flow"):
        main(["pipeline", "--arms", "bare,fast"])


def test_overhead_is_the_difference_and_what_lies_around_the_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_measure", lambda arm, _options: MEASURED[arm])
    found = pipeline.run(pipeline_options("--arms", "bare,dvc"))
    assert found["build"] == {"bare": 100.0, "dvc": 104.0}
    assert found["overhead"]["dvc"] == {
        "difference_seconds": pytest.approx(4.0),
        "difference_share": pytest.approx(0.04),
        "around_stages_seconds": pytest.approx((104 - 96) - (100 - 95)),
        "around_stages_share": pytest.approx(0.03),
    }
    assert found["no_op"]["dvc"]["median"] == 0.7
    assert found["stages"]["ingest"] == {"bare_seconds": 40.0, "seconds": 37.0, "peak_memory_bytes": 10**9}
    assert found["tokens_per_second"] == {"pretrain": 12_000.0}
    table = pipeline.format_result(found)
    for line in (
        "overhead of dvc, around the stages",
        "3.0 s = 3.0% of bare",
        "12,000 tokens/s",
        "0.70 s, median of 3",
    ):
        assert line in table


def test_one_arm_alone_needs_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_measure", lambda arm, _options: MEASURED[arm])
    found = pipeline.run(pipeline_options("--arms", "dvc"))
    assert found["overhead"] == {}
    assert found["stages"]["pretrain"] == {"seconds": 59.0, "peak_memory_bytes": 2 * 10**9}
    assert "inside the stage, s" in pipeline.format_result(found)


def pipeline_options(*arguments: str) -> Any:
    import argparse

    parser = argparse.ArgumentParser()
    pipeline.add_arguments(parser)
    return parser.parse_args(arguments)


def test_stages_come_after_what_they_need() -> None:
    names = list(Checkout(REPOSITORY, os.environ).stages())
    assert names.index("ingest") < names.index("validate") < names.index("tokenizer") < names.index("encode")
    assert names.index("pretrain") < names.index("finetune@library") < names.index("evaluate@library")


def test_a_failing_command_is_named(tmp_path: Path) -> None:
    with pytest.raises(HallmarkError, match=r"`false` exited 1"):
        Checkout(tmp_path, os.environ).time("false")


@pytest.fixture
def short_pipeline(tmp_path: Path, built_project: ToyProject) -> Path:
    """A clone with this code as it is now and two stages, `ingest` and `pretrain`, with what they read, committed."""
    root = tmp_path / "short"
    subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(root)], check=True)
    for folder in ("benchmarks", "flows", "pipeline", "tests"):
        shutil.rmtree(root / folder)
        shutil.copytree(REPOSITORY / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    kept = {name: stages[name] for name in ("ingest", "pretrain")}
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": kept}, sort_keys=False), encoding="utf-8")
    read = [path for path in kept["pretrain"]["deps"] if not path.startswith("pipeline/")]
    for path in read:
        shutil.copytree(built_project.root / path, root / path)
    author = ["-c", "user.name=Toy", "-c", "user.email=toy@example.org"]
    subprocess.run(["git", "add", "--force", "--all", ".", *read], cwd=root, check=True)
    subprocess.run(["git", *author, "commit", "--quiet", "--all", "--message", "Shorten"], cwd=root, check=True)
    return root


@pytest.mark.end_to_end
@pytest.mark.server
def test_a_real_run_measures_every_stage_bare_and_under_the_flow_and_ends_its_server(
    short_pipeline: Path, prefect_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers: list[tuple[Path, str]] = []

    @contextmanager
    def noted(clone: Checkout) -> Iterator[str]:
        home = Path(clone.environment["PREFECT_HOME"])
        home.mkdir()
        shutil.copy(prefect_database, home)
        with prefect_server(clone) as address:
            with urllib.request.urlopen(f"{address}/health") as answer:
                assert answer.status == 200
            servers.append((clone.root, address))
            yield address

    monkeypatch.setattr(pipeline, "prefect_server", noted)
    for module in (pipeline, checkout):
        monkeypatch.setattr(module, "REPOSITORY", short_pipeline)
    found = pipeline.run(pipeline_options("--toy", "--arms", "bare,flow", "--repeats", "1"))
    assert list(found["build"]) == ["bare", "flow"]
    assert list(found["stages"]) == ["ingest", "pretrain"]
    assert len(found["no_op"]["flow"]["seconds"]) == 1
    assert all(stage["peak_memory_bytes"] > 10**7 for stage in found["stages"].values())
    assert found["tokens_per_second"]["pretrain"] > 0
    assert found["overhead"]["flow"]["around_stages_seconds"] > 0
    [(root, address)] = servers
    assert not root.exists()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{address}/health", timeout=5)
