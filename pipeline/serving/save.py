"""A package as an MLflow model: code, safetensors and JSON, and nothing that has to be unpickled."""

import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from pipeline.common.environment import be_quiet
from pipeline.serving.package import Package, read_package

be_quiet()

import mlflow.pyfunc  # noqa: E402 - it reads the environment when it is imported
from mlflow.models import ModelSignature  # noqa: E402
from mlflow.types import ColSpec, DataType, Schema  # noqa: E402
from mlflow.types.schema import Map  # noqa: E402

PROJECT = Path(__file__).resolve().parents[2]
CODE = ("common", "model", "serving", "tasks", "tokenization", "training")  # rooms that the served model imports
REQUIREMENTS = ("mlflow", "numpy", "pandas", "pyarrow", "pydantic", "pyyaml", "safetensors", "tokenizers", "torch")


def save_pyfunc(package: Package | Path, folder: Path) -> None:
    """Write `package` as an MLflow model that `mlflow.pyfunc.load_model` and `mlflow models serve` take.

    Args:
        package: what `write_package` made.
        folder: a folder that does not exist yet.
    """
    package = package if isinstance(package, Package) else read_package(package)
    with tempfile.TemporaryDirectory(prefix="hallmark-code-") as code:
        mlflow.pyfunc.save_model(
            path=str(folder),
            python_model=str(Path(__file__).with_name("pyfunc_model.py")),
            artifacts={"package": str(package.folder.resolve())},
            code_paths=[str(_copy_code(Path(code)))],
            signature=_signature(),
            input_example=None,
            pip_requirements=[f"{name}=={version(name).partition('+')[0]}" for name in REQUIREMENTS],
        )


def _copy_code(folder: Path) -> Path:
    """Only the rooms that serving needs: MLflow copies whole folders."""
    target = folder / "pipeline"
    target.mkdir()
    shutil.copyfile(PROJECT / "pipeline" / "__init__.py", target / "__init__.py")
    for room in CODE:
        shutil.copytree(
            PROJECT / "pipeline" / room, target / room, ignore=shutil.ignore_patterns("__pycache__", "*.tmp")
        )
    return target


def _signature() -> ModelSignature:
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string)]),
        outputs=Schema([ColSpec(DataType.string, "label"), ColSpec(Map(DataType.double), "probabilities")]),
    )


def python_version() -> str:
    return ".".join(str(part) for part in sys.version_info[:3])
