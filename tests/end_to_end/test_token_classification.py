"""A task of labelled spans beside a classification, through every stage."""

import json
import re
from pathlib import Path

import pytest

from pipeline.common.files import read_json
from pipeline.common.spans import spans_from_json
from pipeline.common.tables import read_table
from tests.toy import ToyProject

pytestmark = pytest.mark.end_to_end

PEOPLE, PLACES = ("Anna", "Zoë Bell", "Li Wei", "Omar"), ("Rome", "New York", "Lima", "Oslo")
NAMES = {"kind": "token_classification", "path": "names/*.conll", "labels_per_class": None}
STAGES = ["ingest", "validate", "finetune@names", "scratch@names", "evaluate@names", "report", "register@names"]


def write_names(folder: ToyProject) -> None:
    """Three CoNLL files; every sentence is another one, since copies are set aside."""
    for split, sentences in (("train", 400), ("dev", 20), ("test", 20)):
        lines = []
        for number in range(sentences):
            words = [(f"{split}{number}", "O")]
            for name, label in ((PEOPLE[number % 4], "person"), (PLACES[number // 4 % 4], "place")):
                first, *rest = name.split()
                words += [("and", "O"), (first, f"B-{label}"), *((word, f"I-{label}") for word in rest)]
            lines += [f"{word} {tag}" for word, tag in words] + [""]
        path = folder.root / "data/own/names" / f"{split}.conll"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_a_second_task_of_labelled_spans_is_built_to_its_package(built_project: ToyProject, tmp_path: Path) -> None:
    toy = built_project.copy(tmp_path / "toy")
    write_names(toy)
    toy.change(tasks={"names": NAMES})
    printed = toy.repro().stdout
    assert sorted(re.findall(r"Running stage '([^']+)'", printed)) == sorted(STAGES)  # the other task stays as it is
    assert re.search(r"evaluate@names  span F1 \d\.\d{3} \(\d\.\d{3} to \d\.\d{3}\)", printed), printed
    assert re.search(r"package_hash: [0-9a-f]{64}", printed)

    metrics = read_json(toy.root / "metrics/evaluate/names.json")
    assert set(metrics["baselines"]) == {"scratch", "word_shapes"}
    assert set(metrics["per_class"]) == {"person", "place"}
    assert metrics["micro_f1"]["value"] == metrics["f1"]["micro"]
    assert metrics["micro_f1"]["low"] <= metrics["micro_f1"]["value"] <= metrics["micro_f1"]["high"]
    predictions = read_table(toy.root / "predictions/names.parquet")
    assert list(predictions) == ["id", "spans", "predicted", "scores", "word_shapes", "scratch"]
    assert predictions["id"].str.startswith("names/test.conll:").all()
    found = [spans_from_json(content) for content in predictions["predicted"]]
    assert [len(spans) for spans in found] == [len(scores) for scores in predictions["scores"]]

    signature = read_json(toy.root / "models/register/names/signature.json")
    assert signature["outputs"][0]["name"] == "spans"
    page = (toy.root / "report/index.html").read_text(encoding="utf-8")
    assert "Task names" in page
    assert "span F1" in page
    assert "word shapes + logistic regression" in page
    curve = (toy.root / "report/curves/tasks/names_finetune.csv").read_text().splitlines()
    assert curve[0] == "step,score"
    summary = json.loads(toy.hallmark("summary", "--json").stdout)
    assert summary["tasks"]["names"]["micro_f1"] == {
        part: metrics["micro_f1"][part] for part in ("value", "low", "high")
    }
    assert summary["tasks"]["package"]["accuracy"]
    assert '"errors"' not in toy.run("dvc", "plots", "show", "--json").stdout
