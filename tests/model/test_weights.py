"""The folder of a trained network: what belongs together is kept together, and what was changed is refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.common.errors import HallmarkError
from pipeline.common.files import sha256_folder
from pipeline.model.transformer import Transformer
from pipeline.model.weights import load_weights, named_weights, read_weights, save_checkpoint_folder
from pipeline.tokenization.tokenizer import Tokenizer
from pipeline.tokenization.training import train_bpe
from tests.model.test_parts import TINY, tiny_model


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe(["one two three two one two " * 20], 300)


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    save_checkpoint_folder(tmp_path / "model", named_weights(tiny_model()), {"model": TINY.to_dict()}, tokenizer)
    return tmp_path / "model"


def test_what_is_written_is_read_and_the_bytes_are_always_the_same(
    folder: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    weights, config, read_back = read_weights(folder)
    model = Transformer(TINY)
    load_weights(model, weights)
    ids = torch.arange(12)[None]
    assert torch.equal(model.eval()(ids), tiny_model()(ids))
    assert config["model"] == TINY.to_dict()
    assert read_back.hash == tokenizer.hash
    shuffled = dict(reversed(named_weights(tiny_model()).items()))
    save_checkpoint_folder(tmp_path / "again", shuffled, {"model": TINY.to_dict()}, tokenizer)
    assert sha256_folder(folder) == sha256_folder(tmp_path / "again")


def test_hand_edited_weights_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["decoder.norm.weight"][0] += 1
    save_file(weights, path)
    with pytest.raises(HallmarkError, match=r"model.safetensors: these weights were changed after training: sha256"):
        read_weights(folder)


def test_a_tokenizer_of_another_model_is_refused_naming_both(folder: Path, tokenizer: Tokenizer) -> None:
    other = train_bpe(["quite another text " * 20], 300)
    other.save(folder)
    with pytest.raises(HallmarkError) as caught:
        read_weights(folder)
    assert tokenizer.hash[:12] in str(caught.value)
    assert other.hash[:12] in str(caught.value)
    assert "dvc checkout" in str(caught.value)


def test_a_missing_folder_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(HallmarkError, match=r"(?s)this folder holds no trained model.*next: dvc repro"):
        read_weights(tmp_path)


def test_weights_of_another_shape_are_refused_all_at_once() -> None:
    weights = named_weights(tiny_model())
    weights["spare"] = weights.pop("decoder.norm.weight")
    weights["lm_head.weight"] = torch.zeros(3, 3)
    with pytest.raises(
        HallmarkError, match=r"missing \['decoder.norm.weight'\], unknown \['spare'\].*\['lm_head.weight'\]"
    ):
        load_weights(Transformer(TINY), weights)
