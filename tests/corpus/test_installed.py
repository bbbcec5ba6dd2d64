"""The corpus is read from pinned versions only."""

from pathlib import Path

import pytest

from pipeline.common.errors import HallmarkError
from pipeline.corpus.installed import check_installed, read_constraints
from tests.corpus.conftest import Install


@pytest.fixture
def constraints(tmp_path: Path) -> Path:
    path = tmp_path / "constraints.txt"
    path.write_text("# pins\nalpha-lib==1.0\nBeta.Lib == 2.0 ; python_version > '3'\ngamma==3.0\n", encoding="utf-8")
    return path


def test_lines_are_read_with_names_normalized(constraints: Path) -> None:
    assert read_constraints(constraints) == {"alpha-lib": "1.0", "beta-lib": "2.0", "gamma": "3.0"}


def test_the_pinned_versions_pass_whatever_the_build(install: Install, constraints: Path) -> None:
    install("alpha_lib", {"alpha.py": ""}, version="1.0+cpu")
    install("beta-lib", {"beta.py": ""}, version="2.0")
    assert check_installed(["alpha-lib", "beta_lib", "stdlib"], constraints) == {"alpha-lib": "1.0", "beta_lib": "2.0"}


def test_every_difference_is_named_with_the_command_that_mends_it(install: Install, constraints: Path) -> None:
    install("alpha-lib", {"alpha.py": ""}, version="1.1")
    install("delta-lib", {"delta.py": ""}, version="4.0")
    with pytest.raises(HallmarkError) as caught:
        check_installed(["alpha-lib", "gamma", "delta-lib", "epsilon-lib"], constraints)
    message = str(caught.value)
    assert "alpha-lib: 1.1 is installed, 1.0 is pinned" in message
    assert "gamma: is not installed, 3.0 is pinned" in message
    assert "delta-lib: 4.0 is installed, but no version is pinned here" in message
    assert "epsilon-lib: is not installed and not pinned" in message
    assert "next: make install" in message


def test_a_missing_constraints_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(HallmarkError, match=r"constraints.txt: there is no such file"):
        check_installed([], tmp_path / "constraints.txt")
