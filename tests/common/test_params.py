"""params.yaml: shipped as the defaults, commented from the settings, checked as a whole."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.common.errors import HallmarkError
from pipeline.common.params import Finetune, Params, Prompting, Task, check_params, load_params, render


def test_the_shipped_file_is_the_defaults_with_their_comments() -> None:
    assert load_params() == Params()
    assert Path("params.yaml").read_text(encoding="utf-8") == render(Params())


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("")
    assert load_params(tmp_path / "params.yaml") == Params()


@settings(max_examples=30, deadline=None)
@given(
    learning_rate=st.floats(1e-8, 10),
    text=st.text(st.characters(blacklist_categories=["Cs", "Cc"])),
    whole=st.booleans(),
)
def test_what_is_rendered_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, learning_rate: float, text: str, whole: bool
) -> None:
    values = Params().model_dump(by_alias=True)
    values["finetune"]["learning_rate"] = learning_rate
    values["source"]["path"] = text
    values["tasks"]["library"]["labels_per_class"] = None if whole else 7
    if whole and text:
        values["source"] |= {"kind": "python-docs+files", "documents": {"z": "z.txt", text + "y": text}}
        values["pretrain"]["source_weights"] = {text + "y": learning_rate, "numpy": 0}
    params = Params.model_validate(values)
    path = tmp_path_factory.mktemp("params") / "params.yaml"
    path.write_text(render(params), encoding="utf-8")
    assert load_params(path) == params
    assert load_params(path).source.names == params.source.names  # in their order


def test_all_mistakes_are_told_at_once_with_what_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(
        "pretrain: {optimiser: muon, steps: -1}\n"
        "model: {depth: four}\n"
        "source: {kind: web}\n"
        "tasks: {library: {labels: 3}}\n"
        "sede: 3\n"
    )
    with pytest.raises(HallmarkError) as caught:
        load_params(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: 6 problems")
    assert "pretrain.optimiser: unknown key; did you mean optimizer? allowed: steps, batch_tokens" in message
    assert "pretrain.steps: Input should be greater than or equal to 0, not -1" in message
    assert "model.depth: Input should be a valid integer" in message
    assert "source.kind: Input should be 'python-docs', 'files' or 'python-docs+files', not 'web'" in message
    assert "tasks.library.labels: unknown key; allowed: kind, path" in message
    assert "sede: unknown key; did you mean seed? allowed: seed, source, validate" in message
    assert "next: mend these keys" in message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\n", "this is not YAML"),
        ("- a list\n", "Input should be a valid dictionary"),
        (
            "promote: {floors: {belu: 20, f1: 60}}\n",
            "promote.floors: there is no figure belu; allowed: accuracy, macro_f1, micro_f1, f1, character_f1, "
            "exact_match, exact_answers, answered, chrf, bleu, rouge_1, rouge_2, rouge_l; f1 goes from 0 to 1, not",
        ),
        ("tasks: {Library: {}}\n", "String should match pattern"),
        ("tasks: {}\n", "at least 1 item"),
        ("tasks: {mood: {}}\n", "without one python-docs makes library, parameters, describe, summarise only"),
        (
            "tasks: {library: {path: a.csv}}\n",
            "tasks.library.path: source.kind python-docs reads no file; allowed: null",
        ),
        (
            "tasks: {parameters: {kind: classification}}\n",
            "tasks.parameters.kind: python-docs makes parameters for token_classification, not classification",
        ),
        ("source: {kind: files}\ntasks: {mood: {}}\n", "tasks.mood.path: source.kind files needs the labelled file"),
        (
            "source: {kind: python-docs+files}\ntasks: {mood: {}}\n",
            "tasks.mood.path: name a labelled file; without one",
        ),
        ("source: {text_column: 0}\n", "source.text_column: allowed: the name of a column, or its number from 1"),
        ("source: {documents: 3}\n", "source.documents: allowed: a list of globs, or globs by name as {NAME: GLOB}"),
        ("source: {documents: {a: [b]}}\n", "source.documents: allowed: a list of globs"),
        (
            "source: {libraries: [numpy, sympy]}\npretrain: {source_weights: {nunpy: 2}}\n",
            "pretrain.source_weights.nunpy: no source has this name; allowed: numpy, sympy",
        ),
        (
            "pretrain: {source_weights: {numpy: -1}}\n",
            "source_weights.numpy: Input should be greater than or equal to 0",
        ),
        (
            "source: {kind: python-docs+files, libraries: [numpy], documents: {numpy: '*.txt'}}\n",
            "two sources are called numpy",
        ),
        ("finetune: {learning_rate: .nan}\n", "finetune.learning_rate"),
        ("prompting: {mood: {}}\n", "prompting.mood: there is no such task; allowed: library"),
        ("prompting: {library: {shot: [1]}}\n", "prompting.library.shot: unknown key; did you mean shots?"),
        ("prompting: {library: {template: x}}\n", "prompting.library.template: allowed: a text with {text} once"),
        ("prompting: {library: {shots: [1, 1]}}\n", "prompting.library.shots: allowed: each value once"),
        (
            "source: {kind: files}\ntasks: {names: {path: x, kind: token_classification}}\nprompting: {names: {}}\n",
            "prompting.names: only tasks of the kind classification can be prompted",
        ),
        (
            "source: {kind: files}\ntasks: {nli: {path: x, pair_column: b}}\nprompting: {nli: {}}\n",
            "prompting.nli.template: has no {pair}, and the task's pair_column names a text",
        ),
        (
            "prompting: {library: {template: '{text} {pair} {label}'}}\n",
            "prompting.library.template: has {pair}, and the task's pair_column names no text",
        ),
    ],
)
def test_each_mistake_has_its_message(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(HallmarkError) as caught:
        load_params(path)
    assert message in str(caught.value)
    assert str(path) in str(caught.value)


def test_prompting_is_rendered_with_the_line_ends_of_its_template(tmp_path: Path) -> None:
    """And what stands there as comments is what a task would have."""
    params = Params.model_validate({"prompting": {"library": {"label_words": {"numpy": "a\nb"}, "shots": [0]}}})
    path = tmp_path / "params.yaml"
    path.write_text(render(params), encoding="utf-8")
    assert load_params(path) == params
    shipped = render(Params())
    commented = shipped[shipped.index("# prompting:") : shipped.index("prompting: {}")].replace("\n# ", "\n")
    path.write_text(commented.removeprefix("# ").replace("NAME:", "library:"), encoding="utf-8")
    assert load_params(path).prompting == {"library": Prompting()}


def test_the_kind_of_a_made_task_follows_from_its_name() -> None:
    tasks = check_params({"tasks": {"parameters": {}, "library": {}}}, "here").tasks
    assert {name: (task.kind, task.labels_per_class) for name, task in tasks.items()} == {
        "parameters": ("token_classification", None),
        "library": ("classification", 32),
    }
    few = check_params({"tasks": {"parameters": {"labels_per_class": 8}}}, "here")
    assert few.tasks["parameters"].labels_per_class == 8
    own = {"source": {"kind": "files"}, "tasks": {"parameters": {"path": "a.csv"}}}
    assert check_params(own, "here").tasks["parameters"] == Task(path="a.csv")


def test_a_missing_file_says_how_to_get_it_back(tmp_path: Path) -> None:
    with pytest.raises(HallmarkError, match="next: git checkout"):
        load_params(tmp_path / "params.yaml")


def test_bytes_that_are_no_text_are_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes(b"seed: \xff\xfe\n")
    with pytest.raises(HallmarkError, match="this is not YAML"):
        load_params(tmp_path / "params.yaml")


def test_every_setting_has_its_meaning() -> None:
    for section in (Params().source, Params().model, Params().pretrain, Finetune(), Params().promote):
        assert all(field.description for field in type(section).model_fields.values())


@pytest.mark.parametrize(
    "setting",
    [
        {"kind": "token_classification", "pair_column": "second"},
        {"kind": "token_classification", "class_weights": "balanced"},
        {"kind": "question_answering", "class_weights": "balanced"},
    ],
)
def test_what_a_kind_would_not_heed_is_refused(setting: dict[str, str]) -> None:
    message = rf"tasks\.library: {list(setting)[1]}: kind {setting['kind']} .*; allowed: n"
    with pytest.raises(HallmarkError, match=message):
        check_params({"tasks": {"library": setting}}, "params.yaml")
