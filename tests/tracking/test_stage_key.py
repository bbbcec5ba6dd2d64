"""The stage key is the same before the run, from the working tree, and after it, from `dvc.lock`."""

import subprocess
import sys
from pathlib import Path

from pipeline.tracking.stage_key import decisive, describe_stage, locked_stages, stage_key

PIPELINE = """
stages:
  copy:
    cmd: {python} -c "open('out','w').write(open('in').read())"
    deps: [in]
    params: [rate, share]
    outs: [out]
"""


def test_the_key_is_the_same_before_and_after_the_run(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text(PIPELINE.format(python=sys.executable))
    (tmp_path / "params.yaml").write_text("rate: 0.00001\nshare: 2.5e-07\n")  # DVC writes them as 1e-05 and 2.5e-07
    (tmp_path / "in").write_text("text")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=tmp_path, check=True)
    before = describe_stage("copy", tmp_path)
    subprocess.run([sys.executable, "-m", "dvc", "repro", "-q"], cwd=tmp_path, check=True)
    after = decisive("copy", locked_stages(tmp_path)["copy"])
    assert after["params"] == {"rate": 1e-05, "share": 2.5e-07}
    assert stage_key(before) == stage_key(after) == stage_key(describe_stage("copy", tmp_path))
    (tmp_path / "in").write_text("another text")
    assert stage_key(describe_stage("copy", tmp_path)) != stage_key(before)
