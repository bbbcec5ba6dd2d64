"""No tool sends anything anywhere: switched off by committed configuration and before heavy imports."""

import configparser
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pipeline.common.environment import QUIET, be_quiet


def test_telemetry_is_off_unless_the_user_said_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in QUIET:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    be_quiet()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["DO_NOT_TRACK"] == "true"  # MLflow needs the word, not a number
    assert os.environ["HF_HUB_OFFLINE"] == "0"


def test_a_process_ends_without_a_search_for_garbage() -> None:
    program = """
from pipeline.common.environment import be_quick
class Ring:
    def __init__(self): self.me = self
    def __del__(self): print("found")
"""
    found = [
        subprocess.run([sys.executable, "-c", program + end], capture_output=True, text=True, check=True).stdout
        for end in ("Ring()", "be_quick(); Ring()")
    ]
    assert found == ["found\n", ""]


def test_committed_configuration_switches_telemetry_off() -> None:
    dvc = configparser.ConfigParser()
    dvc.read(".dvc/config")
    assert (dvc["core"]["analytics"], dvc["core"]["check_update"]) == ("false", "false")
    prefect = tomllib.loads(Path("prefect.toml").read_text(encoding="utf-8"))
    assert prefect["server"]["analytics_enabled"] is False
    assert prefect["server"]["ui"]["show_promotional_content"] is False
