"""A whole project in a temporary folder, small enough to be built in a test: real text, real Git, real DVC."""

import ast
import csv
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from pipeline.common.environment import QUIET
from pipeline.common.params import Params, load_params, render
from tests.warm import WarmPython

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGES = ("asyncio", "email", "logging")  # the labels: which package does this docstring describe?
TEXTS_PER_PACKAGE = 120

TOY_PARAMS: dict[str, Any] = {
    "source": {"kind": "files", "path": "data/own", "documents": ["documents/*.txt"], "validation_share": 0.2},
    "tokenizer": {"vocab_size": 320, "training_megabytes": 1},
    "compute": {"device": "cpu", "precision": "float32", "compile": "never"},
    "model": {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 64, "context_length": 64},
    "pretrain": {"steps": 20, "batch_tokens": 512, "validate_every": 10, "checkpoint_every": 5},
    "finetune": {"epochs": 2, "batch_size": 8, "max_tokens": 48, "validation_texts": 60},
    "tasks": {"package": {"path": "labels.csv", "labels_per_class": 16}},
    "evaluate": {"bootstrap_samples": 100},
}

OUTSIDE = ("DVC_", "HALLMARK_", "MLFLOW_", "PREFECT_", "TORCHINDUCTOR_")  # variables that point out of the project
# What stages import and takes time, and what MLflow finds by reading the files of all packages, for a second.
LIBRARIES = (
    *("torch._dynamo", "safetensors.torch", "tokenizers", "sacrebleu", "pyarrow.parquet"),
    *("sklearn.linear_model", "sklearn.feature_extraction.text", "great_expectations", "jinja2"),
    *("mlflow.pyfunc", "mlflow.utils.requirements_utils:_init_packages_to_modules_map"),
    *("dvc.repo", "dvc.cachemgr", "dvc.data_cloud", "dvc.lock", "dvc.scm", "scmrepo.git"),
)
TWO_THREADS = {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}
WARM = "TOY_WARM_PROGRAMS"  # names the folder of the program `python` that asks for a fork
PYTHON = "TOY_PYTHON"  # names the program that starts anew
COPIED = (
    "pipeline",
    "flows",
    "dvc.yaml",
    ".dvc/config",
    ".dvc/.gitignore",
    ".dvc/plots_page.html",
    ".dvcignore",
    ".gitignore",
    "prefect.toml",
    "prefect.yaml",
)
COPIED += ("constraints.txt", "pyproject.toml")


@dataclass(frozen=True)
class ToyProject:
    """A toy checkout and what is needed to run commands in it."""

    root: Path

    @property
    def environment(self) -> dict[str, str]:
        """The test's environment, without anything that points outside this project; tracking is off."""
        inside = inside_only(os.environ)
        inside.pop("PYTHONDONTWRITEBYTECODE", None)  # each stage would compile the project's code anew
        return inside | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "HALLMARK_TRACKING": "off",
            "OMP_NUM_THREADS": "1",
            "DVC_SITE_CACHE_DIR": str(self.root / ".hallmark" / "dvc-site"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_AUTHOR_NAME": "Toy",
            "GIT_AUTHOR_EMAIL": "toy@example.org",
            "GIT_COMMITTER_NAME": "Toy",
            "GIT_COMMITTER_EMAIL": "toy@example.org",
        }

    def start(
        self, *command: str, environment: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[str]:
        """Start a command in the project, in a process group of its own, stdout and stderr in one pipe."""
        settings: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "start_new_session": True}
        return subprocess.Popen(
            command, cwd=self.root, env=self.environment | dict(environment or {}), text=True, **(settings | options)
        )

    def run(
        self, *command: str, check: bool = True, timeout: float = 480, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the project to its end; a failure shows everything that it printed."""
        done = subprocess.run(
            command,
            cwd=self.root,
            env=self.environment | dict(environment or {}),
            text=True,
            capture_output=True,
            timeout=timeout,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)} exited {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def repro(
        self, *targets: str, check: bool = True, fresh: bool = False, environment: Mapping[str, str] = {}
    ) -> subprocess.CompletedProcess[str]:
        """Build by DVC. Stages run in forks of a process that has imported libraries, unless they are to be `fresh`."""
        settings = dict(environment) if fresh else self.warm | dict(environment)
        return self.run("dvc", "--wait-for-lock", "repro", *targets, check=check, environment=settings)

    @property
    def warm(self) -> dict[str, str]:
        """What lets the stages of a command run in forks: `run(..., environment=toy.warm)`."""
        programs = os.environ.get(WARM)
        return {"PATH": f"{programs}{os.pathsep}{self.environment['PATH']}"} if programs else {}

    def hallmark(self, *arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-m", "pipeline.cli", *arguments, check=check, **options)

    def git(self, *arguments: str) -> str:
        return self.run("git", *arguments).stdout

    @property
    def params(self) -> Params:
        return load_params(self.root / "params.yaml")

    def change(self, **sections: Mapping[str, Any]) -> None:
        """Change settings: `toy.change(finetune={"learning_rate": 0.01})`."""
        values = self.params.model_dump(by_alias=True)
        for section, changes in sections.items():
            values[section] |= changes
        (self.root / "params.yaml").write_text(render(Params.model_validate(values)), encoding="utf-8")

    def outputs(self, stage: str) -> dict[str, str]:
        """The md5 of each output of a built stage, by path."""
        return {out["path"]: out["md5"] for out in self.lock[stage]["outs"]}

    @property
    def lock(self) -> dict[str, Any]:
        """The stages of `dvc.lock` by name."""
        return yaml.safe_load((self.root / "dvc.lock").read_text(encoding="utf-8"))["stages"]

    def copy(self, to: Path) -> "ToyProject":
        """A copy to change at will; Git history, DVC cache and `.hallmark` come along."""
        shutil.copytree(self.root, to, ignore=shutil.ignore_patterns("dvc-site"))
        return ToyProject(to)


def make_toy_project(root: Path, params: Mapping[str, Any] | None = None) -> ToyProject:
    """Make a committed project below `root`, with its own text and labels and toy settings."""
    root.mkdir(parents=True, exist_ok=True)
    for name in COPIED:
        _copy(REPOSITORY / name, root / name)
    write_toy_text(root / "data" / "own")
    (root / "params.yaml").write_text(render(Params.model_validate(TOY_PARAMS | dict(params or {}))), encoding="utf-8")
    toy = ToyProject(root)
    toy.git("init", "--quiet", "--initial-branch", "main")
    toy.git("add", "--all")
    toy.git("commit", "--quiet", "--message", "A toy project")
    return toy


def inside_only(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that do not point out of a toy project."""
    return {name: value for name, value in environment.items() if not name.startswith((*OUTSIDE, "PYTHONPATH"))}


def warm_python() -> WarmPython:
    """A process for the stages of toy projects."""
    alone = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}  # read when torch is imported
    return WarmPython(LIBRARIES, inside_only(os.environ) | QUIET | alone)


def build_once(shared: Path) -> None:
    """Build a toy project as `shared`/built, unless it is built, or wait for who builds it. Why it is not built is
    then in `shared`/built.failed."""
    root, failure = shared / "built", shared / "built.failed"
    with FileLock(shared / "built.lock"):
        if failure.exists() or (root / "dvc.lock").exists():
            return
        try:
            make_toy_project(root).repro(fresh=True, environment=TWO_THREADS)
        except BaseException as error:
            failure.write_text(str(error))
            if not isinstance(error, Exception):
                raise


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.tmp"))
    elif source.exists():
        shutil.copyfile(source, target)


def write_toy_text(folder: Path) -> None:
    """Write the standard library's docstrings as `documents/*.txt`, one per module, and `labels.csv` (text, label)."""
    (folder / "documents").mkdir(parents=True)
    library = Path(sysconfig.get_path("stdlib"))
    with (folder / "labels.csv").open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["text", "label"])
        for package in PACKAGES:
            texts: dict[str, None] = {}  # an ordered set
            for module in sorted((library / package).rglob("*.py")):
                found = _docstrings(module)
                texts |= dict.fromkeys(found)
                if found:
                    document = folder / "documents" / f"{package}_{module.stem}.txt"
                    document.write_text("\n\n".join(found) + "\n", encoding="utf-8")
            writer.writerows([text, package] for text in list(texts)[:TEXTS_PER_PACKAGE])


@cache
def _docstrings(module: Path) -> list[str]:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))) if isinstance(node, kinds)]
    docs = [ast.get_docstring(node) or "" for node in nodes]
    return [doc for doc in docs if 40 <= len(doc) <= 600]


if __name__ == "__main__":
    build_once(Path(sys.argv[1]))
