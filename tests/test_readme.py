"""README.md tells the truth: its picture, its settings, and its commands, which are run."""

import json
import re
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.common.params import Params, render
from tests.toy import TOY_PARAMS, ToyProject

README = Path("README.md").read_text(encoding="utf-8")
STAGES = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
# Long, for ever, or for another machine: tests of their own start these (end_to_end, flows, serving).
ONLY_LOOKED_UP = ("dvc exp", "make", "mlflow", "prefect", "python -m flows", "source", "export", "curl")
ONLY_LOOKED_UP += ("hallmark promote", "hallmark rollback")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """The commands of the `sh` blocks, one list of words each, comments and continuations resolved."""
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    words = [shlex.split(line, comments=True) for line in lines]
    return [command for command in words if command]


def test_the_first_screen_has_exactly_two_commands() -> None:
    assert blocks("sh")[0].split("\n") == ["make repro", "make test", ""]
    assert README.index("make repro") < README.index("## Your own text")
    assert README[: README.index("```sh")].count("\n") < 50


def test_the_picture_is_the_graph_of_dvc() -> None:
    [picture] = blocks("mermaid")
    edges = set()
    for line in picture.splitlines()[1:]:
        nodes = re.split(r"\s+-->\s+|\s+-\..*?\.->\s+", line.strip())
        edges |= set(pairwise(nodes))
    always = {name for name, stage in STAGES.items() if stage.get("foreach") != "${prompting}"}  # none by default
    assert {node for edge in edges for node in edge} == always
    listed = subprocess.run(
        [sys.executable, "-m", "dvc", "dag", "--dot"], capture_output=True, text=True, check=True
    ).stdout
    graph = set(re.findall(r'"([a-z]+)(?:@library)?" -> "([a-z]+)(?:@library)?"', listed))
    assert edges <= graph


def test_every_make_target_is_there() -> None:
    targets = set(re.findall(r"^([a-z]+):", Path("Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = set(re.findall(r"make (repro|test|ui|install|constraints|clean)\b", README))
    assert named <= targets
    assert {command[1] for command in commands() if command[0] == "make"} <= targets


def test_every_verb_is_there() -> None:
    named = re.findall(r"(?:^|`)hallmark ([a-z][a-z0-9-]+)", README, flags=re.MULTILINE)
    assert len(set(named)) >= 8
    for verb in set(named):
        assert CliRunner().invoke(app, [verb, "--help"]).exit_code == 0, verb


@pytest.mark.usefixtures("warm_executable")
def test_modules_and_pools_of_the_flows_are_there() -> None:
    modules = {command[2] for command in commands() if command[:2] == ["python", "-m"]}
    assert modules == {"flows.worker", "flows.deploy", "flows.rebuild", "flows.promote", "flows.sweep"}
    for module in sorted(modules):
        options = {word for command in commands() if module in command for word in command if word.startswith("--")}
        help_of = [sys.executable, "-m", module, "--help"]
        shown = subprocess.run(help_of, capture_output=True, text=True, check=True).stdout
        assert all(option in shown for option in options), module
    deployments = yaml.safe_load(Path("prefect.yaml").read_text(encoding="utf-8"))["deployments"]
    assert "rebuild/gpu" in {f"{each['entrypoint'].rpartition('.')[2]}/{each['name']}" for each in deployments}


def test_paths_and_links_exist() -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", README):
        assert Path(link).exists(), link
    for anchor in re.findall(r"\]\(#([^)]+)\)", README):
        assert re.search(rf"^## {anchor}$", README, flags=re.MULTILINE | re.IGNORECASE), anchor


def own_settings() -> dict[str, dict[str, object]]:
    [settings] = blocks("yaml")
    return yaml.safe_load(settings)


def test_the_settings_for_own_text_are_accepted_as_they_stand() -> None:
    params = Params.model_validate(own_settings())
    assert params.source.kind == "files"
    assert list(params.tasks) == ["mood"]


@pytest.mark.end_to_end
def test_commands_that_look_at_a_build_work(built_project: ToyProject, tmp_path: Path) -> None:
    project = built_project.copy(tmp_path / "project")
    ran = []
    for command in commands():
        line = shlex.join(command)
        if not line.startswith(ONLY_LOOKED_UP):
            done = project.run(*command, environment={"COLUMNS": "160"})
            assert done.stdout, line
            ran.append(line)
    assert {"hallmark summary", "hallmark doctor", "hallmark params", "dvc metrics show", "dvc repro"} <= set(ran)


FACTS = {
    "good": [
        "面条很好吃",
        "上菜很快",
        "服务员很热情",
        "the noodles were perfect",
        "a friendly place",
        "we will come again 🙂",
    ],
    "bad": ["汤是凉的", "等了一个小时", "服务员不耐烦", "the soup was cold", "we waited an hour", "never again 😠"],
}


@pytest.mark.end_to_end
def test_own_text_in_chinese_and_english_is_built_as_described(toy_project: ToyProject) -> None:
    own = toy_project.root / "data" / "own"
    for path in own.rglob("*.*"):
        path.unlink()
    rows = [
        f'"{first}，{second}（{number}）",{label}'
        for label, facts in FACTS.items()
        for number, (first, second) in enumerate((a, b) for a in facts for b in facts if a != b)
    ]
    csv = blocks("csv")[0].rstrip("\n")
    (own / "reviews.csv").write_text("\n".join([csv, *rows]) + "\n", encoding="utf-8")
    for year in ("2024", "2025"):
        text = "\n\n".join(f"{year}: {fact}。" for facts in FACTS.values() for fact in facts)
        (own / "documents" / f"{year}.txt").write_text(text * 20, encoding="utf-8")
    settings = TOY_PARAMS | own_settings()
    settings["source"] = {"validation_share": 0.5, **settings["source"]}
    (toy_project.root / "params.yaml").write_text(render(Params.model_validate(settings)), encoding="utf-8")
    toy_project.repro("evaluate@mood")
    summary = json.loads(toy_project.hallmark("summary", "--json").stdout)
    assert 0 <= summary["tasks"]["mood"]["macro_f1"]["value"] <= 1
    assert (toy_project.root / "models" / "finetune" / "mood" / "model.safetensors").exists()
