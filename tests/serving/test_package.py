"""Packages: the same bytes for the same model, refused when changed, and nothing pickled in what is served."""

import pickletools
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pipeline.common.errors import HallmarkError
from pipeline.common.files import read_json, sha256_folder, write_json
from pipeline.serving.package import read_package, write_package
from pipeline.serving.reload import predict_in_fresh_process
from pipeline.serving.save import save_pyfunc
from pipeline.tasks.classification import load_classifier
from tests.serving.conftest import LABELS, TEXTS


def test_the_same_model_gives_the_same_bytes(classifier_folder: Path, tmp_path: Path) -> None:
    first = write_package(classifier_folder, tmp_path / "a" / "topic", TEXTS[:2])
    again = write_package(classifier_folder, tmp_path / "b" / "topic", TEXTS[:2])
    assert sha256_folder(first.folder) == sha256_folder(again.folder)
    assert first.hash == again.hash == read_package(first.folder).hash
    assert first.labels == tuple(LABELS)
    assert first.input_example == TEXTS[:2]


def test_a_package_replaces_what_lay_there(classifier_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "topic"
    folder.mkdir()
    (folder / "stale.bin").touch()
    write_package(classifier_folder, folder, [])
    assert not (folder / "stale.bin").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json", "signature.json"])
def test_a_changed_file_is_refused_by_name(classifier_folder: Path, tmp_path: Path, name: str) -> None:
    package = write_package(classifier_folder, tmp_path / "topic", TEXTS[:2])
    content = bytearray((package.folder / name).read_bytes())
    content[-2] ^= 1
    (package.folder / name).write_bytes(content)
    with pytest.raises(HallmarkError, match=f"changed since it was packaged: {name}"):
        read_package(package.folder)


def test_a_changed_manifest_is_refused(classifier_folder: Path, tmp_path: Path) -> None:
    package = write_package(classifier_folder, tmp_path / "topic", [])
    manifest = read_json(package.folder / "package.json")
    write_json(package.folder / "package.json", {**manifest, "hash": "0" * 64})
    with pytest.raises(HallmarkError, match=r"package\.json"):
        read_package(package.folder)


def test_a_missing_package_and_a_model_that_is_not_whole(classifier_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(HallmarkError, match="holds no packaged model"):
        read_package(tmp_path)
    torn = tmp_path / "torn"
    shutil.copytree(classifier_folder, torn)
    (torn / "tokenizer.json").unlink()
    with pytest.raises(HallmarkError, match=r"lacks tokenizer\.json"):
        write_package(torn, tmp_path / "package", [])


@pytest.fixture(scope="module")
def saved(classifier_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    save_pyfunc(write_package(classifier_folder, folder / "topic", TEXTS[:2]), folder / "model")
    return folder / "model"


def test_a_fresh_process_predicts_the_same_without_the_project(classifier_folder: Path, saved: Path) -> None:
    answers = predict_in_fresh_process(saved, TEXTS)
    expected = load_classifier(classifier_folder).predict_probabilities(TEXTS)
    found = np.array([[answer["probabilities"][label] for label in LABELS] for answer in answers], dtype=np.float32)
    np.testing.assert_array_equal(found, expected)
    assert [answer["label"] for answer in answers] == [LABELS[place] for place in expected.argmax(axis=1)]


@pytest.mark.usefixtures("warm_executable")
def test_a_tampered_model_does_not_load(saved: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(saved, copy)
    weights = copy / "artifacts" / "topic" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(RuntimeError, match=r"changed since it was packaged: model\.safetensors"):
        predict_in_fresh_process(copy, TEXTS[:1])


def is_pickle(path: Path) -> bool:
    """Whether a file holds a pickle stream, or an archive (torch.save's) with one in it."""
    if zipfile.is_zipfile(path):
        return any(name.endswith(".pkl") for name in zipfile.ZipFile(path).namelist())
    content = path.read_bytes()
    if not content.startswith(b"\x80"):  # PROTO, the first opcode since protocol 2
        return False
    try:
        return any(opcode.name == "STOP" for opcode, _, _ in pickletools.genops(content))
    except ValueError:
        return False


def test_nothing_that_is_served_is_pickled(saved: Path) -> None:
    files = [path for path in saved.rglob("*") if path.is_file()]
    assert {"MLmodel", "model.safetensors", "tokenizer.json", "pyfunc_model.py"} <= {path.name for path in files}
    assert not [path for path in files if is_pickle(path)]
    assert not [path for path in files if path.suffix in (".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib")]


def test_only_the_rooms_that_serving_needs_are_copied(saved: Path) -> None:
    rooms = {path.name for path in (saved / "code" / "pipeline").iterdir() if path.is_dir()} - {"__pycache__"}
    assert rooms == {"common", "model", "serving", "tasks", "tokenization"}


def test_the_signature_is_typed(saved: Path) -> None:
    text = (saved / "MLmodel").read_text()
    assert '[{"type": "string", "required": true}]' in text
    assert "probabilities" in text
