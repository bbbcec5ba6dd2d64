"""Who becomes champion, on what grounds, and what is written down: on a real registry in SQLite."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.common.errors import HallmarkError
from pipeline.common.figures import NAMES
from pipeline.common.files import write_json
from pipeline.common.label_sets import labels_to_json
from pipeline.common.layout import clean_task
from pipeline.common.params import Params, check_params, render
from pipeline.common.tables import write_table
from pipeline.model.config import ModelConfig
from pipeline.serving.package import write_package
from pipeline.serving.save import save_pyfunc
from pipeline.tasks.classification import TextClassifier, load_classifier
from pipeline.tasks.trained import save_trained
from pipeline.tokenization.training import train_bpe
from pipeline.tracking.answers import Predict, predict_version
from pipeline.tracking.mlflow_store import Store, open_store
from pipeline.tracking.promotion import EXPERIMENT, floors_missed, promote, rollback
from pipeline.tracking.registry import Version, get_version, register_package
from tests.evaluation.answered import Right, answer_all, make_rows

LABELS = ["ant", "bee"]
NAME = "hallmark-library"
CLASSIFIER_METRICS = {f"{who}.{name}" for who in ("challenger", "champion") for name in ("accuracy", "macro_f1")}
CLASSIFIER_METRICS |= {"accuracy_difference", "accuracy_p_value"}
CLASSIFIER_METRICS |= {f"macro_f1_difference{end}" for end in ("", ".low", ".high")}


class Models:
    """Registers versions that are right with a given probability, and answers for them."""

    def __init__(self, store: Store, folder: Path) -> None:
        self.store, self.folder = store, folder
        self.right: dict[str, float] = {}
        self.asked: list[int] = []

    def register(self, right: float) -> Version:
        """A package of its own bytes; only its answers matter here, so its files are not a network's."""
        folder = self.folder / f"model{len(self.right)}"
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(f"{right} {len(self.right)}".encode())
        (folder / "tokenizer.json").write_text("{}")
        write_json(folder / "config.json", {"task": {"kind": "classification", "labels": LABELS}})
        package = write_package(folder, self.folder / f"package{len(self.right)}", ["a text"])
        version, is_new = register_package(self.store, "library", package.folder, package.folder, {})
        assert is_new
        self.right[package.hash] = right
        return version

    def predict(self, _store: Store, version: Version, texts: Sequence[str]) -> list[dict[str, str]]:
        self.asked.append(version.number)
        generator = np.random.default_rng(version.number)
        truth = [len(text) % 2 for text in texts]
        right = generator.random(len(texts)) < self.right[version.package_hash]
        return [
            {"label": LABELS[place if is_right else 1 - place]} for place, is_right in zip(truth, right, strict=True)
        ]

    def aliases(self) -> dict[str, int]:
        found = {alias: get_version(self.store, NAME, alias) for alias in ("champion", "previous", "challenger")}
        return {alias: version.number for alias, version in found.items() if version is not None}


def write_test_set(texts: int = 200) -> None:
    """Texts whose length says their label."""
    rows = [
        {"id": f"t{n}", "text": "x" * (n + 1), "label": LABELS[(n + 1) % 2], "split": "test", "group": "g"}
        for n in range(texts)
    ]
    rows.append({"id": "other", "text": "train", "label": "ant", "split": "train", "group": "g"})
    write_table(clean_task("library"), pd.DataFrame(rows))


def set_rules(**rules: object) -> None:
    values = Params().model_dump(by_alias=True)
    values["promote"] |= rules
    Path("params.yaml").write_text(render(Params.model_validate(values)))


@pytest.fixture
def models(store: Store, tmp_path: Path) -> Models:
    set_rules()
    write_test_set()
    return Models(store, tmp_path / "models")


def runs(store_of: str = EXPERIMENT) -> list[mlflow.entities.Run]:
    store = open_store(store_of)
    return store.client.search_runs([store.experiment_id], order_by=["attributes.start_time DESC"])


def test_the_first_champion_needs_only_the_floors(models: Models) -> None:
    models.register(0.6)
    set_rules(min_accuracy=0.9, min_macro_f1=0.8)
    kept = promote("library", store=models.store, predict=models.predict)
    assert (kept.action, kept.verdict) == ("kept", "first champion")
    assert [reason.split(" ")[0] for reason in kept.reasons] == ["accuracy", "macro-F1"]
    assert models.aliases() == {"challenger": 1}
    set_rules(min_accuracy=0.3)
    decision = promote("library", store=models.store, predict=models.predict)
    assert (decision.action, decision.champion) == ("promoted", None)
    assert models.aliases() == {"challenger": 1, "champion": 1}
    assert models.asked == [1]  # the answers to the same texts are kept


def test_a_better_challenger_becomes_champion_and_the_decision_is_a_run(models: Models) -> None:
    models.register(0.6)
    promote("library", store=models.store, predict=models.predict)
    models.register(0.9)
    decision = promote("library", store=models.store, predict=models.predict)
    assert (decision.action, decision.verdict, decision.champion) == ("promoted", "better", 1)
    assert models.aliases() == {"challenger": 2, "champion": 2, "previous": 1}
    run = runs()[0]
    assert run.info.status == "FINISHED"
    assert run.data.tags["hallmark.verdict"] == "better"
    assert (run.data.tags["hallmark.challenger"], run.data.tags["hallmark.champion"]) == ("2", "1")
    found = decision.comparison
    assert found is not None
    assert run.data.metrics["macro_f1_difference.low"] == pytest.approx(found.difference.low)
    assert set(run.data.metrics) == CLASSIFIER_METRICS
    assert run.data.params["alpha"] == "0.05"
    assert "difference  " in "\n".join(decision.lines())
    again = promote("library", store=models.store, predict=models.predict)
    assert (again.action, again.verdict) == ("kept", "already champion")


def test_an_unclear_or_worse_challenger_is_kept_out(models: Models) -> None:
    models.register(0.8)
    promote("library", store=models.store, predict=models.predict)
    for right, verdict in ((0.8, "inconclusive"), (0.4, "worse")):
        models.register(right)
        decision = promote("library", store=models.store, predict=models.predict)
        assert (decision.action, decision.verdict) == ("kept", verdict)
    assert models.aliases()["champion"] == 1
    assert runs()[0].data.tags["hallmark.action"] == "kept"


def test_not_worse_is_enough_where_the_settings_say_so(models: Models) -> None:
    models.register(1.0)
    promote("library", store=models.store, predict=models.predict)
    models.register(1.0)
    decision = promote("library", store=models.store, predict=models.predict)
    assert (decision.action, decision.verdict) == ("kept", "not worse")
    set_rules(accept_not_worse=True)
    assert promote("library", store=models.store, predict=models.predict).action == "promoted"


def test_a_rolled_back_version_is_not_promoted_by_itself_again(models: Models) -> None:
    models.register(0.6)
    promote("library", store=models.store, predict=models.predict)
    models.register(0.9)
    promote("library", store=models.store, predict=models.predict)
    decision = rollback("library", store=models.store)
    assert (decision.action, decision.challenger, decision.champion) == ("rolled back", 1, 2)
    assert models.aliases() == {"challenger": 2, "champion": 1, "previous": 2}
    assert runs()[0].data.tags["hallmark.verdict"] == "rollback"
    again = promote("library", store=models.store, predict=models.predict)
    assert (again.action, again.verdict) == ("kept", "better")
    assert "version 2 was rolled back before" in again.reasons[0]
    rollback("library", store=models.store)  # undoes the first
    assert models.aliases()["champion"] == 2
    models.register(0.2)
    assert promote("library", store=models.store, predict=models.predict).reasons[0].startswith("the challenger is wor")


def test_a_changed_test_set_is_answered_anew_by_both(models: Models) -> None:
    models.register(0.6)
    promote("library", store=models.store, predict=models.predict)
    models.register(0.9)
    write_test_set(texts=150)
    decision = promote("library", store=models.store, predict=models.predict)
    assert models.asked == [1, 1, 2]
    assert decision.comparison is not None
    assert decision.comparison.examples == 150


def test_what_is_missing_is_said_with_what_to_type(models: Models) -> None:
    with pytest.raises(HallmarkError, match=r"there is no task 'mood'; allowed: library"):
        promote("mood", store=models.store)
    with pytest.raises(HallmarkError, match="no challenger\n  next: hallmark register library"):
        promote("library", store=models.store)
    with pytest.raises(HallmarkError, match="no champion before the present one"):
        rollback("library", store=models.store)
    models.register(0.5)
    clean_task("library").unlink()
    with pytest.raises(HallmarkError, match="next: dvc repro"):
        promote("library", store=models.store, predict=models.predict)


def test_floors() -> None:
    rules = Params.model_validate({"promote": {"min_accuracy": 0.5, "min_macro_f1": 0.5}}).promote
    assert floors_missed({"accuracy": 0.5, "macro_f1": 0.4}, rules) == ["macro-F1 0.4000 is below the floor 0.5"]
    rules = Params.model_validate({"promote": {"floors": {"bleu": 30, "accuracy": 0.6}, "min_accuracy": 0.1}}).promote
    assert floors_missed({"chrf": 9.0, "bleu": 29.5}, rules) == ["BLEU 29.5000 is below the floor 30"]
    assert floors_missed({"accuracy": 0.5}, rules) == ["accuracy 0.5000 is below the floor 0.6"]


@pytest.mark.usefixtures("warm_executable")
def test_a_registered_version_answers_as_its_classifier_does(store: Store, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = train_bpe(iter(["ants and bees", "bees and ants are many"] * 20), 300)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=16,
        num_layers=1,
        num_heads=2,
        intermediate_size=32,
        context_length=16,
        tied_embeddings=False,
        dropout=0.0,
    )
    task = {"kind": "classification", "labels": LABELS, "pooling": "mean", "max_tokens": 12}
    save_trained(tmp_path / "model", TextClassifier(config, 2, "mean"), task, "float32", tokenizer)
    package = write_package(tmp_path / "model", tmp_path / "package", ["ants"])
    save_pyfunc(package, tmp_path / "saved")
    version, _ = register_package(store, "library", package.folder, tmp_path / "saved", {})
    texts = ["ants and ants", "bees", "x" * 40, "many ants"]
    answers = predict_version(store, version, texts)
    assert [answer["label"] for answer in answers] == load_classifier(package.folder).predict(texts)


def test_pairs_and_any_number_of_labels_are_compared_by_whole_label_sets(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = Params().model_dump(by_alias=True)
    values["source"]["kind"] = "files"
    values["tasks"]["library"] |= {"kind": "multi_label_classification", "pair_column": "second", "path": "own.csv"}
    Path("params.yaml").write_text(render(Params.model_validate(values)))
    truth = [["ant", "bee"], ["ant"], [], ["bee"]] * 40
    table = pd.DataFrame(
        {"id": [f"t{n}" for n in range(160)], "text": "x", "pair": [f"second {n}" for n in range(160)]}
    )
    table = table.assign(labels=[labels_to_json(labels) for labels in truth], split="test", group="g")
    write_table(clean_task("library"), table)
    models, asked = Models(store, tmp_path / "models"), []

    def predict(_store: Store, version: Version, requests: Sequence[Any]) -> list[dict[str, list[str]]]:
        asked.append(requests[3])
        return [{"labels": labels if version.number == 2 else labels[:1]} for labels in truth]

    models.register(0.1)
    first = promote("library", store=store, predict=predict)
    assert first.action == "promoted"
    assert first.figures is not None
    assert first.figures["accuracy"] == 0.75
    models.register(0.2)
    decision = promote("library", store=store, predict=predict)
    assert (decision.action, decision.verdict) == ("promoted", "better")
    assert asked == [{"text": "x", "pair": "second 3"}] * 2


@pytest.fixture
def of_kind(store: Store, tmp_path: Path) -> Callable[..., Models]:
    """Models of a task of some kind, with its rows and settings."""

    def make(kind: str, rows: int = 80, **rules: object) -> Models:
        values = Params().model_dump(by_alias=True)
        values["source"]["kind"] = "files"
        values["tasks"] = {"library": {"kind": kind, "path": "own.csv"}}
        values["promote"] |= rules
        Path("params.yaml").write_text(render(check_params(values, "params.yaml")))
        write_table(clean_task("library"), make_rows(kind, rows))
        return Models(store, tmp_path / "models")

    return make


def predict_as(kind: str, rows: pd.DataFrame, right: Mapping[int, Right]) -> Predict:
    """Versions, by their numbers, that are right where it says so."""
    return lambda _store, version, _requests: answer_all(kind, rows, right[version.number])


@pytest.mark.parametrize("kind", ["token_classification", "question_answering", "sequence_to_sequence", "dialogue"])
def test_versions_of_every_kind_are_compared_by_their_leading_figure(kind: str, of_kind: Callable[..., Models]) -> None:
    models = of_kind(kind, dialogues=80)
    rows, half = make_rows(kind, 80), np.arange(80) % 4 > 1
    predict = predict_as(kind, rows, {1: half, 2: half | (np.arange(80) % 8 == 0)})
    models.register(0.5)
    first = promote("library", store=models.store, predict=predict)
    assert (first.action, first.verdict) == ("promoted", "first champion")
    assert first.figures is not None
    assert runs()[0].data.metrics == {f"challenger.{name}": value for name, value in first.figures.items()}
    models.register(0.7)
    better = promote("library", store=models.store, predict=predict)
    assert (better.action, better.verdict) == ("promoted", "better")
    leading, *others = first.figures
    figures = {f"{who}.{name}" for who in ("challenger", "champion") for name in first.figures}
    assert set(runs()[0].data.metrics) == figures | {f"{leading}_difference{end}" for end in ("", ".low", ".high")}
    shown = [NAMES[name] for name in (*others, leading)]
    assert [name for name, _ in better.rows()][3:-2] == ["test set", *shown, "difference"]
    assert rollback("library", store=models.store).challenger == 1


def test_a_floor_of_any_figure_is_heeded(of_kind: Callable[..., Models]) -> None:
    models = of_kind("sequence_to_sequence", floors={"rouge_l": 75, "accuracy": 0.9})
    models.register(0.5)
    predict = predict_as("sequence_to_sequence", make_rows("sequence_to_sequence", 80), {1: np.arange(80) % 2 > 0})
    kept = promote("library", store=models.store, predict=predict)
    assert kept.action == "kept"
    assert [reason.split(" ")[0] for reason in kept.reasons] == ["ROUGE-L"]
    assert runs()[0].data.params["floors.rouge_l"] == "75.0"


def test_a_few_dialogues_are_asked_and_those_refused_are_told(of_kind: Callable[..., Models]) -> None:
    models, asked = of_kind("dialogue", rows=100, dialogues=30), []
    models.register(0.5)

    def predict(_store: Store, _version: Version, requests: Sequence[Any]) -> list[dict[str, str]]:
        asked.append([request["messages"][0]["content"] for request in requests])
        return [{"refused": "too long"}, *({"content": "It was Anna, I think."} for _ in requests[1:])]

    decision = promote("library", store=models.store, predict=predict)
    assert asked == [[f"{number}?" for number in range(0, 100, 4)]]
    assert decision.figures is not None
    assert decision.figures["answered"] == 24 / 25
    assert ("answered", "0.9600") in decision.rows()


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        (
            [{"refused": "no words"}, *[{"spans": []}] * 79],
            "does not answer 1 of 80 test rows; the first one: no words",
        ),
        ([{"label": "person"}] * 80, "does not answer as a model of kind token_classification, but with label"),
        ([{"spans": []}] * 79, "79 answers to 80 requests"),
    ],
)
def test_what_is_no_answer_is_refused(
    of_kind: Callable[..., Models], answers: list[dict[str, Any]], message: str
) -> None:
    models = of_kind("token_classification")
    models.register(0.5)
    with pytest.raises(HallmarkError, match=f"models:/{NAME}/1: .*{message}"):
        promote("library", store=models.store, predict=lambda *_: answers)


@pytest.mark.usefixtures("warm_executable")
def test_a_version_that_does_not_answer_is_named(store: Store) -> None:
    with pytest.raises(
        HallmarkError, match=r"models:/hallmark-library/7: this version does not answer\n(.*\n)*.*not found"
    ):
        predict_version(store, Version(NAME, 7, (), {}, 0.0), ["a"])
