"""Tasks of every kind beside a classification, through every stage in one build: one entry in `TASKS` each."""

import csv
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipeline.common.files import read_json
from pipeline.common.spans import spans_from_json
from pipeline.common.tables import read_table
from pipeline.tracking.promotion import promote
from pipeline.tracking.registry import register_task
from tests.toy import ToyProject

pytestmark = [pytest.mark.end_to_end, pytest.mark.xdist_group("tasks")]  # one build for all, in one test process

SPLITS = (("train", 400), ("dev", 20), ("test", 20))
PEOPLE, PLACES = ("Anna", "Zoë Bell", "Li Wei", "Omar"), ("Rome", "New York", "Lima", "Oslo")


def write_names(folder: Path) -> None:
    """Three CoNLL files; every sentence is another one, since copies are set aside."""
    for split, sentences in SPLITS:
        lines = []
        for number in range(sentences):
            words = [(f"{split}{number}", "O")]
            for name, label in ((PEOPLE[number % 4], "person"), (PLACES[number // 4 % 4], "place")):
                first, *rest = name.split()
                words += [("and", "O"), (first, f"B-{label}"), *((word, f"I-{label}") for word in rest)]
            lines += [f"{word} {tag}" for word, tag in words] + [""]
        (folder / f"{split}.conll").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_facts(folder: Path) -> None:
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
    (folder / "facts.json").write_text(content, encoding="utf-8")


def write_same(folder: Path) -> None:
    """Whether two texts speak of the same place."""
    for split, count in SPLITS:
        rows = [("premise", "hypothesis", "label")]
        for number in range(count // 4):
            is_same = number % 3 > 0
            place, other = PLACES[number % 4], PLACES[(number + 1) % 4]
            known = place if is_same else other
            rows.append((f"{split}{number} is from {place}", f"I know {known}", "yes" if is_same else "no"))
        _write_csv(folder / f"{split}.csv", rows)


def write_topics(folder: Path) -> None:
    """Who and what is spoken of, perhaps nobody."""
    for split, count in SPLITS:
        lines = []
        for number in range(count // 4):
            words = [PEOPLE[number % 4], PLACES[number // 4 % 4]][: number % 3]
            lines.append(json.dumps({"text": " ".join([f"{split}{number}", *words]), "labels": words}))
        (folder / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")


def write_counts(folder: Path) -> None:
    """Three pairs of files of lines: so many words, and how many they are."""
    for split, lines in (("train", 60), ("val", 12), ("test", 12)):
        texts = [f"{split}{number}" + " word" * (number % 3) for number in range(lines)]
        targets = [("nothing", "one word", "two words")[number % 3] for number in range(lines)]
        (folder / f"{split}.src").write_text("\n".join(texts) + "\n", encoding="utf-8")
        (folder / f"{split}.tgt").write_text("\n".join(targets) + "\n", encoding="utf-8")


def write_dialogues(folder: Path) -> None:
    rows = []
    for number in range(80):
        asked = [{"role": "system", "content": "Say it."}] if number % 2 else []
        asked += [{"role": "user", "content": f"{number}?"}, {"role": "assistant", "content": f"{number}!"}]
        rows.append(json.dumps({"messages": asked}) + "\n")
    (folder / "chat.jsonl").write_text("".join(rows), encoding="utf-8")


def _write_csv(path: Path, rows: Iterable[tuple[str, ...]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as handle:
        csv.writer(handle).writerows(rows)


@dataclass(frozen=True)
class ToyTask:
    """A task, its files, and what has to come of it.

    Attributes:
        settings: of params.yaml.
        write: writes the files into the folder of the task's name.
        leading: the first figure in the metrics, and how it is called.
        columns: of predictions/TASK.parquet behind the id.
        output: the first thing in an answer of the packaged model.
        shown: words on the page.
        baselines: by their keys.
    """

    settings: Mapping[str, Any]
    write: Callable[[Path], None]
    leading: tuple[str, str]
    columns: list[str]
    output: str
    shown: list[str]
    baselines: set[str] = field(default_factory=lambda: {"majority", "tfidf", "scratch"})


TASKS = {
    "names": ToyTask(
        {"kind": "token_classification", "path": "names/*.conll", "labels_per_class": None},
        write_names,
        ("micro_f1", "span F1"),
        ["spans", "predicted", "scores", "word_shapes", "scratch"],
        "spans",
        ["span F1", "word shapes + logistic regression"],
        {"scratch", "word_shapes"},
    ),
    "facts": ToyTask(
        {"kind": "question_answering", "path": "facts/facts.json", "labels_per_class": None},
        write_facts,
        ("f1", "answer F1"),
        ["answers", "predicted", "scratch", "nearby_words", "no_answer", "score"],
        "answer",
        ["answer F1", "never an answer"],
        {"scratch", "nearby_words", "no_answer"},
    ),
    "same": ToyTask(
        {
            "path": "same/*.csv",
            "text_column": "premise",
            "pair_column": "hypothesis",
            "labels_per_class": None,
            "class_weights": "balanced",
        },
        write_same,
        ("macro_f1", "macro-F1"),
        ["label", "predicted", "p_no", "p_yes", "majority", "tfidf", "scratch"],
        "label",
        ["TF-IDF + logistic regression"],
    ),
    "topics": ToyTask(
        {"kind": "multi_label_classification", "path": "topics/*.jsonl"},
        write_topics,
        ("macro_f1", "macro-F1"),
        ["labels", "predicted", "p_Anna", "p_Lima", "p_Li Wei", "p_Omar", "majority", "tfidf", "scratch"],
        "labels",
        ["subset accuracy", "majority of each label"],
    ),
    "counts": ToyTask(
        {
            "kind": "sequence_to_sequence",
            "path": "counts/*.src",
            "target_path": "counts/*.tgt",
            "labels_per_class": None,
            "max_target_tokens": 12,
            "beams": 2,
            "measure": "rouge_l",
        },
        write_counts,
        ("rouge_l", "ROUGE-L"),
        ["target", "predicted", "chrf", "lead", "nearest", "scratch"],
        "text",
        ["ROUGE-L", "chrF", "BLEU"],
        {"scratch", "nearest", "lead"},
    ),
    "chat": ToyTask(
        {"kind": "dialogue", "path": "chat/chat.jsonl", "labels_per_class": None},
        write_dialogues,
        ("token_accuracy", "token accuracy"),
        ["answer", "predicted", "tokens", "nats", "right", "scratch_nats", "unigram_nats"],
        "role",
        ["perplexity per token", "unigram of the answers"],
        {"scratch", "unigram"},
    ),
}
STAGES = ["finetune", "scratch", "evaluate", "register"]


class Build(NamedTuple):
    """A project with all of these tasks, what its build printed, and its summary."""

    toy: ToyProject
    printed: str
    summary: dict[str, Any]


@pytest.fixture(scope="module")
def build(built_project: ToyProject, tmp_path_factory: pytest.TempPathFactory) -> Build:
    toy = built_project.copy(tmp_path_factory.mktemp("tasks") / "toy")
    for name, task in TASKS.items():
        folder = toy.root / "data/own" / name
        folder.mkdir(parents=True)
        task.write(folder)
    toy.change(tasks={name: dict(task.settings) for name, task in TASKS.items()})
    printed = toy.repro().stdout
    return Build(toy, printed, json.loads(toy.hallmark("summary", "--json").stdout))


def test_other_tasks_are_built_and_the_first_one_stays_as_it_is(build: Build) -> None:
    wanted = ["ingest", "validate", "report", *(f"{stage}@{name}" for name in TASKS for stage in STAGES)]
    assert sorted(re.findall(r"Running stage '([^']+)'", build.printed)) == sorted(wanted)
    assert len(re.findall(r"package_hash: [0-9a-f]{64}", build.printed)) == len(TASKS)
    assert len(re.findall(r"test rows predicted alike by a fresh process", build.printed)) == len(TASKS)
    assert build.summary["tasks"]["package"]["accuracy"]
    assert '"errors"' not in build.toy.run("dvc", "plots", "show", "--json").stdout


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_built_to_its_page_and_its_package(build: Build, name: str) -> None:
    task, root = TASKS[name], build.toy.root
    key, called = task.leading
    line = rf"evaluate@{name}  {called} \d\.\d{{3}} \(\d\.\d{{3}} to \d\.\d{{3}}\)"
    assert re.search(line, build.printed), build.printed
    metrics = read_json(root / f"metrics/evaluate/{name}.json")
    assert set(metrics["baselines"]) == task.baselines
    assert metrics[key]["low"] <= metrics[key]["value"] <= metrics[key]["high"]
    assert set(read_table(root / f"predictions/{name}.parquet")) >= {"id", *task.columns}
    assert read_json(root / f"models/register/{name}/signature.json")["outputs"][0]["name"] == task.output
    page = (root / "report/index.html").read_text(encoding="utf-8")
    section = page[page.index(f"<h2>Task {name}</h2>") :].partition("</section>")[0]
    for words in task.shown:
        assert words in section, words
    curve = (root / f"report/curves/tasks/{name}_finetune.csv").read_text().splitlines()
    assert curve[0] == "step,score"
    assert build.summary["tasks"][name][key] == {part: metrics[key][part] for part in ("value", "low", "high")}


def test_spans_have_their_labels_and_scores(build: Build) -> None:
    root = build.toy.root
    metrics = read_json(root / "metrics/evaluate/names.json")
    assert set(metrics["per_class"]) == {"person", "place"}
    assert metrics["micro_f1"]["value"] == metrics["f1"]["micro"]
    predictions = read_table(root / "predictions/names.parquet")
    assert predictions["id"].str.startswith("names/test.conll:").all()
    found = [spans_from_json(content) for content in predictions["predicted"]]
    assert [len(spans) for spans in found] == [len(scores) for scores in predictions["scores"]]


def test_a_package_of_pairs_asks_for_both_texts(build: Build) -> None:
    package = build.toy.root / "models/register/same"
    assert [part["name"] for part in read_json(package / "signature.json")["inputs"]] == ["text", "pair"]
    assert set(read_json(package / "input_example.json")["inputs"][0]) == {"text", "pair"}


def test_questions_are_measured_with_and_without_answers(build: Build) -> None:
    metrics = read_json(build.toy.root / "metrics/evaluate/facts.json")
    parts = [metrics[kind] for kind in ("answerable", "unanswerable")]
    whole = sum(part["f1"] * part["questions"] for part in parts) / sum(part["questions"] for part in parts)
    assert metrics["f1"]["value"] == pytest.approx(whole, abs=1e-12)
    signature = read_json(build.toy.root / "models/register/facts/signature.json")
    assert [given["name"] for given in signature["inputs"]] == ["question", "context"]
    assert set(build.summary["tasks"]["facts"]) == {"f1", "exact_match", "baselines"}


def test_written_texts_have_their_signatures(build: Build) -> None:
    assert "version:" in read_json(build.toy.root / "metrics/evaluate/counts.json")["signatures"]["bleu"]
    assert set(build.summary["tasks"]["counts"]) == {"chrf", "bleu", "rouge_l", "baselines"}


def test_a_dialogue_is_answered_and_goes_on(build: Build) -> None:
    root = build.toy.root
    metrics = read_json(root / "metrics/evaluate/chat.json")
    assert metrics["answers_written"] == metrics["test_rows"] == len(read_table(root / "predictions/chat.parquet"))
    assert read_json(root / "metrics/register/chat.json")["rows_compared"] == metrics["test_rows"]
    [asked, _] = read_json(root / "models/register/chat/input_example.json")["inputs"]
    assert asked["messages"][-1]["role"] == "user"
    assert len(build.toy.hallmark("chat", "finetune@chat", "3?", "5?").stdout.splitlines()) >= 2


@pytest.mark.usefixtures("warm_executable")
@pytest.mark.parametrize("name", TASKS)
def test_a_built_model_becomes_champion_by_the_figures_that_evaluate_measured(
    build: Build, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a fresh process answers counts as what `evaluate` predicted."""
    monkeypatch.chdir(build.toy.root)
    monkeypatch.setenv("HALLMARK_HOME", str(build.toy.root / ".hallmark"))
    assert "version 1 (challenger) registered" in register_task(name)
    decision = promote(name)
    assert (decision.action, decision.verdict) == ("promoted", "first champion")
    assert decision.figures is not None
    metrics = read_json(f"metrics/evaluate/{name}.json")
    measured = {figure: metrics[figure]["value"] for figure in decision.figures if "value" in metrics.get(figure, {})}
    assert set(measured) >= ({"exact_answers"} if name == "chat" else {TASKS[name].leading[0]})
    assert {figure: decision.figures[figure] for figure in measured} == pytest.approx(measured)
