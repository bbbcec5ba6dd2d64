"""The house is what dvc.yaml, pyproject.toml and layout.py say: code deps, paths, declared packages, file sizes."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.common import layout

STAGES: dict[str, Any] = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
PROJECT: dict[str, Any] = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
# What surrounds every stage and decides none of its outputs.
RIM = ("pipeline/stages/door.py", "pipeline/tracking/")
RUN_FROM_FILES = {"pipeline/serving/save.py": "pipeline/serving/pyfunc_*.py"}  # that MLflow runs; no line imports them
NEED_NOT_BE_HERE = {"pycrfsuite": "python-crfsuite"}  # of the extra `bench`, imported by another name than installed
NOT_IMPORTED = {  # declared although no line imports them
    "fastapi": "bounded for Prefect",
    "matplotlib": "read as text by the default corpus",
    "sympy": "read as text by the default corpus",
}


def stage(name: str) -> dict[str, Any]:
    return STAGES[name].get("do", STAGES[name])


def imports_of(path: Path) -> Iterator[str]:
    """The dotted names that a file imports, lazy imports in functions included; `from a import b` gives a and a.b."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files_of(module: str) -> list[Path]:
    """The files that importing a module of the project runs: its own, and the __init__.py of each package above it."""
    parts = module.split(".")
    found = [Path(*parts[:count], "__init__.py") for count in range(1, len(parts) + 1)]
    return [path for path in [*found, Path(*parts).with_suffix(".py")] if path.exists()]


def is_only_a_docstring(path: Path) -> bool:
    """Whether a file is an __init__.py that only says what its folder is for: it decides nothing."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return path.name == "__init__.py" and all(isinstance(node, ast.Expr) for node in tree.body)


@cache
def import_closure(door: Path) -> frozenset[str]:
    """Every file of the project that a door imports, directly or not, without the rim."""
    found: set[str] = set()
    waiting = [door]
    while waiting:
        path = waiting.pop()
        name = path.as_posix()
        if name in found or name.startswith(RIM) or is_only_a_docstring(path):
            continue
        found.add(name)
        waiting += Path().glob(RUN_FROM_FILES[name]) if name in RUN_FROM_FILES else []
        for module in imports_of(path):
            if module.partition(".")[0] == "pipeline":
                waiting += files_of(module)
    return frozenset(found)


def covers(dep: str, path: str) -> bool:
    return path == dep or path.startswith(f"{dep}/")


@pytest.mark.parametrize("name", STAGES)
def test_deps_name_all_the_code_that_a_stage_imports_and_no_other(name: str) -> None:
    module = re.match(r"python -m (\S+)", stage(name)["cmd"])
    assert module, stage(name)["cmd"]
    door = Path(*module[1].split(".")).with_suffix(".py")
    code = [dep for dep in stage(name)["deps"] if dep.startswith("pipeline/")]
    closure = import_closure(door)
    uncovered = sorted(path for path in closure if not any(covers(dep, path) for dep in code))
    assert not uncovered, f"add to the deps of {name} in dvc.yaml: {uncovered}"
    unused = [dep for dep in code if not any(covers(dep, path) for path in closure)]
    assert not unused, f"remove from the deps of {name} in dvc.yaml: {unused}"


def test_outputs_lie_where_the_layout_says() -> None:
    expected = {
        "ingest": [layout.RAW],
        "validate": [layout.CLEAN],
        "import": [layout.IMPORTED],
        "tokenizer": [layout.TOKENIZER],
        "encode": [layout.TOKENS],
        "ngram": [],
        "pretrain": [layout.PRETRAINED],
        "finetune": [layout.FINETUNED / "${key}"],
        "scratch": [layout.SCRATCH_ARM / "${key}"],
        "evaluate": [layout.PREDICTIONS / "${key}.parquet"],
        "prompt": [layout.PROMPTING / "${key}"],
        "report": [layout.REPORT],
        "register": [layout.REGISTERED / "${key}"],
    }
    assert {name: stage(name).get("outs", []) for name in STAGES} == {
        name: [path.as_posix() for path in paths] for name, paths in expected.items()
    }
    for inside, outer in [
        (layout.RAW_DOCUMENTS, layout.RAW),
        (layout.raw_task("t"), layout.RAW),
        (layout.RAW_REJECTED, layout.RAW),
        (layout.CLEAN_DOCUMENTS, layout.CLEAN),
        (layout.clean_task("t"), layout.CLEAN),
        (layout.QUARANTINE, layout.CLEAN),
    ]:
        assert outer in inside.parents


@pytest.mark.parametrize("name", [name for name in STAGES if "metrics" in stage(name)])
def test_metrics_lie_where_the_layout_says_and_stay_in_git(name: str) -> None:
    [declared] = stage(name)["metrics"]
    [(path, options)] = declared.items()
    full_name = f"{name}@${{key}}" if "foreach" in STAGES[name] else name
    assert path == layout.metrics_file(full_name).as_posix()
    assert options == {"cache": False}


def test_every_stage_has_a_description_for_people() -> None:
    assert all(stage(name).get("desc") for name in STAGES)


def requirement_name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9_.-]+", requirement)
    assert match
    return normal(match[0])


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def imported_distributions(folders: list[str]) -> dict[str, str]:
    """The distributions that the code imports, each with one file that does."""
    homes = packages_distributions()
    ours = {"pipeline", "flows", "benchmarks", "tests"}
    found: dict[str, str] = {}
    for path in sorted(path for folder in folders for path in Path(folder).rglob("*.py")):
        for top in {module.partition(".")[0] for module in imports_of(path)} - sys.stdlib_module_names - ours:
            names = {normal(name) for name in homes.get(top, [NEED_NOT_BE_HERE.get(top, top)])}
            # mlflow and mlflow-skinny both hold the folder `mlflow`: what is declared is meant
            found[next(iter(names & DECLARED), min(names))] = str(path)
    return found


DECLARED = {requirement_name(line) for line in PROJECT["dependencies"]}
DEVELOPMENT = {requirement_name(line) for extra in PROJECT["optional-dependencies"].values() for line in extra}


def test_dependencies_are_what_is_imported() -> None:
    imported = imported_distributions(["pipeline", "flows"])
    undeclared = {name: path for name, path in imported.items() if name not in DECLARED}
    assert not undeclared, f"declare in pyproject.toml: {undeclared}"
    unused = DECLARED - set(imported) - set(imported_distributions(["benchmarks"])) - set(NOT_IMPORTED)
    assert not unused, f"remove from pyproject.toml, or say in NOT_IMPORTED why it stays: {unused}"


def test_tests_and_benchmarks_import_only_what_is_declared() -> None:
    undeclared = set(imported_distributions(["benchmarks", "tests"])) - DECLARED - DEVELOPMENT
    assert not undeclared


def test_every_upper_bound_has_its_reason() -> None:
    lines = Path("pyproject.toml").read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if re.match(r'\s+"[\w-]+[^"]*(<|==)', line):
            assert "#" in line or lines[number - 1].lstrip().startswith("#"), f"pyproject.toml:{number + 1}: {line}"


def test_files_stay_short_enough_to_be_read() -> None:
    too_long = {}
    for folder in ("pipeline", "flows", "benchmarks", "tests"):
        for path in Path(folder).rglob("*.py"):
            count = len(path.read_text(encoding="utf-8").splitlines())
            if count > 500:
                too_long[str(path)] = count
    assert not too_long


def test_every_folder_of_the_house_is_a_package() -> None:
    folders = {path.parent for folder in ("pipeline", "flows", "tests") for path in Path(folder).rglob("*.py")}
    assert not [str(folder) for folder in folders if not (folder / "__init__.py").exists()]
