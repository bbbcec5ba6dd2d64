"""constraints.txt is read strictly and compared with what is installed."""

from pathlib import Path

import pytest

from pipeline.common.errors import HallmarkError
from pipeline.common.pins import Difference, differences, installed_version, read_pins


def test_the_pins_are_what_is_installed() -> None:
    pins = read_pins()
    assert pins["torch"] == "2.13.0"
    assert not any("+" in pinned for pinned in pins.values())
    assert not any(name.startswith(("nvidia", "triton", "hallmark")) for name in pins)
    assert differences({name: pins[name] for name in ("torch", "dvc", "mlflow", "prefect", "pytest")}) == []


def test_differences_name_both_versions(tmp_path: Path) -> None:
    path = tmp_path / "constraints.txt"
    path.write_text("# a comment\nnumpy==0.1\nno-such-package==3 # why\n\n")
    found = differences(read_pins(path))
    assert found == [Difference("no-such-package", "3", None), Difference("numpy", "0.1", installed_version("numpy"))]
    assert str(found[0]) == "no-such-package missing, pinned 3"


def test_a_line_that_is_no_pin_is_named(tmp_path: Path) -> None:
    path = tmp_path / "constraints.txt"
    path.write_text("numpy==2.0\nscipy>=1\n")
    with pytest.raises(HallmarkError, match=r"constraints.txt:2: 'scipy>=1' is not of the form name==version"):
        read_pins(path)


def test_a_missing_file_says_how_to_get_it_back(tmp_path: Path) -> None:
    with pytest.raises(HallmarkError, match="next: git checkout"):
        read_pins(tmp_path / "constraints.txt")
