"""Tasks of labelled spans and of questions beside a classification, through every stage."""

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
FACTS = {"kind": "question_answering", "path": "facts.json", "labels_per_class": None}
STAGES = ["ingest", "validate", "report"]
STAGES += [
    f"{stage}@{task}" for stage in ("finetune", "scratch", "evaluate", "register") for task in ("names", "facts")
]


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


def write_facts(folder: ToyProject) -> None:
    """A file in SQuAD's format: of the two questions about each text, the second has no answer."""
    paragraphs = []
    for number in range(80):
        person, place = PEOPLE[number % 4], PLACES[number // 4 % 4]
        context = f"Fact {number}: {person} lives in {place}."
        answers = [{"text": place, "answer_start": context.index(place)}]
        where = {"id": f"{number}-where", "question": f"Where does {person} live?", "answers": answers}
        why = {"id": f"{number}-why", "question": "Why?", "answers": [], "is_impossible": True}
        paragraphs.append({"context": context, "qas": [where, why]})
    content = json.dumps({"version": "v2.0", "data": [{"title": "facts", "paragraphs": paragraphs}]})
    (folder.root / "data/own/facts.json").write_text(content, encoding="utf-8")


def test_tasks_of_other_kinds_are_built_to_their_packages(built_project: ToyProject, tmp_path: Path) -> None:
    toy = built_project.copy(tmp_path / "toy")
    write_names(toy)
    write_facts(toy)
    toy.change(tasks={"names": NAMES, "facts": FACTS})
    printed = toy.repro().stdout
    assert sorted(re.findall(r"Running stage '([^']+)'", printed)) == sorted(STAGES)  # the other task stays as it is
    check_facts(toy, printed)
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


def check_facts(toy: ToyProject, printed: str) -> None:
    assert re.search(r"evaluate@facts  answer F1 \d\.\d{3} \(\d\.\d{3} to \d\.\d{3}\)", printed), printed
    assert re.search(r"register@facts .*reloaded: \d+ test rows predicted alike by a fresh process", printed), printed
    metrics = read_json(toy.root / "metrics/evaluate/facts.json")
    assert set(metrics["baselines"]) == {"scratch", "nearby_words", "no_answer"}
    parts = [metrics[kind] for kind in ("answerable", "unanswerable")]
    whole = sum(part["f1"] * part["questions"] for part in parts) / sum(part["questions"] for part in parts)
    assert metrics["f1"]["value"] == pytest.approx(whole, abs=1e-12)
    predictions = read_table(toy.root / "predictions/facts.parquet")
    assert list(predictions) == ["id", "answers", "predicted", "scratch", "nearby_words", "no_answer", "score"]
    signature = read_json(toy.root / "models/register/facts/signature.json")
    assert [given["name"] for given in signature["inputs"]] == ["question", "context"]
    page = (toy.root / "report/index.html").read_text(encoding="utf-8")
    assert "answer F1" in page
    assert "never an answer" in page
    summary = json.loads(toy.hallmark("summary", "--json").stdout)
    assert set(summary["tasks"]["facts"]) == {"f1", "exact_match", "baselines"}
