"""Faults from outside: a full disk, a project that is not whole. Each has its message, none a traceback."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.toy import ToyProject, make_toy_project

pytestmark = pytest.mark.end_to_end


def can_mount() -> bool:
    """Whether this user may mount a small tmpfs in a namespace of its own."""
    if shutil.which("unshare") is None:
        return False
    probe = ["unshare", "--mount", "--map-root-user", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(probe, capture_output=True).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="mounting a tmpfs is not permitted here")
def test_a_full_disk_is_named_and_the_next_build_mends_it(tmp_path: Path) -> None:
    toy = make_toy_project(tmp_path / "toy")
    shutil.move(toy.root / "data" / "own", tmp_path / "own")
    toy.change(source={"path": str(tmp_path / "own")})
    # The mount ends with the namespace's last process.
    small = "mount -t tmpfs -o size=16k tmpfs data && exec dvc --wait-for-lock repro ingest"
    done = toy.run("unshare", "--mount", "--map-root-user", "sh", "-c", small, check=False)
    assert done.returncode != 0
    assert "the disk is full" in done.stderr, done
    assert "next: free space (`dvc gc --workspace`" in done.stderr
    assert "Traceback" not in done.stderr
    assert "ingest" in toy.repro("ingest").stdout
    assert (toy.root / "data" / "raw" / "documents.parquet").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\nseed: 1\n", "\nseed: 1\nsede: 2\n", "sede: unknown key; did you mean seed?"),
        ("steps: 20", "steps: many", "pretrain.steps: Input should be a valid integer"),
        ("path: data/own", "path: data/nowhere", "nowhere"),
    ],
)
def test_a_build_with_wrong_settings_says_which(toy_project: ToyProject, old: str, new: str, message: str) -> None:
    params = toy_project.root / "params.yaml"
    text = params.read_text(encoding="utf-8")
    assert old in text
    params.write_text(text.replace(old, new), encoding="utf-8")
    done = toy_project.repro("ingest", check=False)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
