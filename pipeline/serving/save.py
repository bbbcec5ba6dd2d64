"""A package as an MLflow model: code, safetensors and JSON, and nothing that has to be unpickled."""

import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

from pipeline.common.environment import be_quiet
from pipeline.serving.package import Package, read_package

be_quiet()
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow.pyfunc  # noqa: E402 - it reads the environment when it is imported

ROOMS = Path(__file__).resolve().parents[1]
SERVED_ROOMS = ("common", "model", "serving", "tasks", "tokenization")  # what the served model imports
REQUIREMENTS = (
    "mlflow", "numpy", "pandas", "pyarrow", "pydantic", "pyyaml", "safetensors", "tokenizers", "torch",
)  # fmt: skip


def save_pyfunc(package: Package | Path, folder: Path) -> None:
    """Write `package` as an MLflow model that `mlflow.pyfunc.load_model` and `mlflow models serve` take.

    MLflow reads the signature from the type hints of the served file.

    Args:
        package: what `write_package` made.
        folder: a folder that does not exist yet.
    """
    package = package if isinstance(package, Package) else read_package(package)
    with tempfile.TemporaryDirectory(prefix="hallmark-code-") as code:
        mlflow.pyfunc.save_model(
            path=str(folder),
            python_model=str(package.served.file),
            artifacts={"package": str(package.folder.resolve())},
            code_paths=[str(_copy_code(Path(code)))],
            input_example=package.input_example,
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS],
            metadata={"package_hash": package.hash},
        )


def _copy_code(folder: Path) -> Path:
    """Only the rooms that serving needs: MLflow copies whole folders."""
    target = folder / "pipeline"
    target.mkdir()
    shutil.copyfile(ROOMS / "__init__.py", target / "__init__.py")
    for room in SERVED_ROOMS:
        shutil.copytree(ROOMS / room, target / room, ignore=shutil.ignore_patterns("__pycache__", "*.tmp"))
    return target
