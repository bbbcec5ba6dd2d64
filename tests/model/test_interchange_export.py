"""Exports that stock classes load: classifiers, parts that no architecture has, folders that are not overwritten."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from pipeline.common.errors import HallmarkError
from pipeline.common.files import read_json, sha256_folder
from pipeline.common.params import Model
from pipeline.model.config import ModelConfig, derive_config
from pipeline.model.interchange.exporting import export_model
from pipeline.model.interchange.importing import import_model
from pipeline.model.transformer import Transformer
from pipeline.model.weights import named_weights, save_checkpoint_folder
from pipeline.tasks.classification import TextClassifier, load_classifier
from pipeline.tasks.kinds import KINDS
from pipeline.tasks.trained import save_trained
from pipeline.tokenization.tokenizer import Tokenizer
from pipeline.tokenization.training import train_tokenizer
from tests.model.published import SAMPLE, auto_tokenizer, publish

MAX_TOKENS = 24
TEXTS = [*SAMPLE, "a text with <|bos|> and [CLS] in it", "long " * 100]
LABELS = ["no", "perhaps", "yes"]
TOLERANCE = 1e-4
# (preset, pooling) -> (class, whether it is a stock classifier)
CLASSIFIERS = {
    ("qwen3", "last"): ("Qwen3ForSequenceClassification", True),
    ("llama", "last"): ("LlamaForSequenceClassification", True),
    ("gpt2", "last"): ("GPT2ForSequenceClassification", True),
    ("bert", "first"): ("BertForSequenceClassification", True),
    ("roberta", "first"): ("RobertaForSequenceClassification", True),
    ("qwen3", "mean"): ("Qwen3Model", False),
    ("bert", "mean"): ("BertModel", False),
    ("roberta", "last"): ("RobertaModel", False),
    ("t5", "mean"): ("T5EncoderModel", False),
}


def tokenizer_of(preset: str) -> Tokenizer:
    return train_tokenizer(SAMPLE * 4, "wordpiece" if "bert" in preset else "bpe", 330)


def shake(model: torch.nn.Module) -> None:
    torch.manual_seed(11)
    for parameter in model.parameters():  # blocks start as identity, norms as one
        parameter.data += 0.15 * torch.randn_like(parameter)


def make_classifier(
    folder: Path, preset: str, pooling: str, kind: str = "classification", pairs: bool = False, **parts: Any
) -> None:
    tokenizer = tokenizer_of(preset)
    shape = {"preset": preset, "depth": 2, "hidden_size": 32, "num_heads": 4, "context_length": 40}
    config, _ = derive_config(Model.model_validate(shape | parts), tokenizer.vocab_size)
    model = TextClassifier(config, len(LABELS), pooling)
    shake(model)
    task = {"kind": kind, "labels": LABELS, "pooling": pooling, "max_tokens": MAX_TOKENS, "pairs": pairs}
    save_trained(folder, model, task, "float32", tokenizer)


def make_language_model(folder: Path, **parts: Any) -> None:
    tokenizer = tokenizer_of("gpt2")
    shape = {"depth": 1, "hidden_size": 16, "num_heads": 2, "context_length": 32}
    config, _ = derive_config(Model.model_validate(shape | parts), tokenizer.vocab_size)
    save_checkpoint_folder(folder, named_weights(Transformer(config)), {"model": config.to_dict()}, tokenizer)


@pytest.mark.parametrize(("preset", "pooling"), CLASSIFIERS)
def test_a_classifier_says_there_what_it_says_here(preset: str, pooling: str, tmp_path: Path) -> None:
    make_classifier(tmp_path / "ours", preset, pooling)
    export, _ = export_model(tmp_path / "ours", tmp_path / "exported")
    name, is_stock = CLASSIFIERS[preset, pooling]
    assert export.model_class == name
    expected = load_classifier(tmp_path / "ours").predict_probabilities(TEXTS)
    assert np.ptp(expected, axis=0).min() > 0.01, "texts that are all alike prove nothing"
    found = stock_probabilities(tmp_path / "exported") if is_stock else readme_probabilities(tmp_path / "exported")
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("preset", "pooling", "kind"),
    [
        ("bert", "first", "classification"),
        ("qwen3", "last", "multi_label_classification"),
        ("roberta", "mean", "multi_label_classification"),
    ],
)
def test_pairs_and_any_number_of_labels_are_read_and_answered_there_as_here(
    preset: str, pooling: str, kind: str, tmp_path: Path
) -> None:
    make_classifier(tmp_path / "ours", preset, pooling, kind, pairs=True)
    export_model(tmp_path / "ours", tmp_path / "exported")
    asked = [(text, TEXTS[place - 1]) for place, text in enumerate(TEXTS)]
    expected = KINDS[kind].load(tmp_path / "ours", "cpu").predict_probabilities(asked)
    if pooling == "mean":
        found = readme_probabilities(tmp_path / "exported", asked)
    else:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "exported").eval()
        assert model.config.problem_type.startswith("multi" if "multi" in kind else "single")
        firsts, seconds = map(list, zip(*asked, strict=True))
        batch = auto_tokenizer(tmp_path / "exported")(
            firsts, seconds, padding=True, truncation=True, return_tensors="pt"
        )
        with torch.inference_mode():
            logits = model(**batch).logits
        found = (logits.sigmoid() if "multi" in kind else logits.softmax(-1)).numpy()
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_a_kind_without_a_stock_form_says_so(tmp_path: Path) -> None:
    make_classifier(tmp_path / "ours", "bert", "first", "token_classification")
    with pytest.raises(HallmarkError, match="a model of kind token_classification has no stock form here; allowed: cl"):
        export_model(tmp_path / "ours", tmp_path / "exported")


def stock_probabilities(folder: Path) -> np.ndarray:
    """All texts in one padded batch, by what `transformers` finds in the folder."""
    model, report = transformers.AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    assert model.config.id2label == dict(enumerate(LABELS))
    batch = auto_tokenizer(folder)(TEXTS, padding=True, truncation=True, return_tensors="pt")
    assert batch["input_ids"].size(1) == MAX_TOKENS
    with torch.inference_mode():
        return model.eval()(**batch).logits.softmax(-1).numpy()


def readme_probabilities(folder: Path, texts: Any = TEXTS) -> np.ndarray:
    """By the lines that README.md gives."""
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert code
    names: dict[str, Any] = {}
    printed = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        exec(code[1], names)
    assert printed.getvalue().split()[0] in LABELS
    return names["probabilities"](texts).numpy()


def test_a_classifier_without_a_stock_class_says_what_to_change(tmp_path: Path) -> None:
    make_classifier(tmp_path / "mean", "qwen3", "mean")
    export, _ = export_model(tmp_path / "mean", tmp_path / "exported")
    assert any("finetune.pooling: last" in note for note in export.notes)
    assert {"head.safetensors", "README.md"} < set(export.files)
    make_classifier(tmp_path / "last", "qwen3", "last")
    export, _ = export_model(tmp_path / "last", tmp_path / "stock")
    assert export.notes == []
    assert "README.md" not in export.files


def test_a_classifier_of_an_imported_model_reads_texts_as_it_was_trained(tmp_path: Path) -> None:
    publish("bert", tmp_path / "published")
    import_model(f"hf:{tmp_path / 'published'}", tmp_path / "imported")
    described = read_json(tmp_path / "imported" / "config.json")
    model = TextClassifier(ModelConfig.from_dict(described["model"]), len(LABELS), "first")
    shake(model)
    task = {"kind": "classification", "labels": LABELS, "pooling": "first", "max_tokens": MAX_TOKENS}
    save_trained(tmp_path / "ours", model, task, "float32", Tokenizer.load(tmp_path / "imported"))
    export_model(tmp_path / "ours", tmp_path / "exported")
    expected = load_classifier(tmp_path / "ours").predict_probabilities(TEXTS)
    np.testing.assert_allclose(stock_probabilities(tmp_path / "exported"), expected, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (
            {"positions": "alibi", "norm": "layernorm"},
            ["nearest is qwen3", "positions: alibi; it would have to be rotary"],
        ),
        ({"sliding_window": 8}, ["1 problem", "sliding_window: 8; it would have to be None"]),
        ({"feed_forward": "relu2"}, ["feed_forward: relu2; it would have to be swiglu or geglu or geglu_tanh"]),
        ({"preset": "gpt2", "num_kv_heads": 1}, ["nearest is gpt2", "num_kv_heads: 1; it would have to be 2"]),
        ({"preset": "modernbert"}, ["norm_placement: pre; it would have to be post"]),
        ({"preset": "transformer-2017"}, ["nearest is t5", "positions: sinusoidal; it would have to be relative"]),
    ],
)
def test_parts_that_no_architecture_has_are_named(parts: dict[str, Any], expected: list[str], tmp_path: Path) -> None:
    make_language_model(tmp_path / "ours", **parts)
    with pytest.raises(HallmarkError) as caught:
        export_model(tmp_path / "ours", tmp_path / "exported")
    for part in expected:
        assert part in str(caught.value)
    assert not (tmp_path / "exported").exists()


def test_exporting_again_gives_the_same_bytes_and_nothing_else_is_overwritten(tmp_path: Path) -> None:
    make_language_model(tmp_path / "ours")
    _, is_new = export_model(tmp_path / "ours", tmp_path / "out")
    first = sha256_folder(tmp_path / "out")
    _, again = export_model(tmp_path / "ours", tmp_path / "out")
    assert (is_new, again, sha256_folder(tmp_path / "out")) == (True, False, first)

    make_language_model(tmp_path / "other", tied_embeddings=True)
    _, replaced = export_model(tmp_path / "other", tmp_path / "out")
    assert replaced
    assert sha256_folder(tmp_path / "out") != first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other", "ours", "out"]

    (tmp_path / "out" / "notes.txt").write_text("mine")
    (tmp_path / "out" / "config.json").write_text("{}")
    with pytest.raises(HallmarkError, match=r"did not write config.json, notes.txt, so nothing here is overwritten"):
        export_model(tmp_path / "ours", tmp_path / "out")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("mine")
    with pytest.raises(HallmarkError, match=r"did not write letter.txt"):
        export_model(tmp_path / "ours", tmp_path / "home")
    assert (tmp_path / "home" / "letter.txt").read_text() == "mine"


def test_generation_there_starts_and_ends_as_here(tmp_path: Path) -> None:
    make_language_model(tmp_path / "ours")
    export_model(tmp_path / "ours", tmp_path / "out")
    tokenizer = tokenizer_of("qwen3")
    settings = transformers.GenerationConfig.from_pretrained(tmp_path / "out")
    assert settings.eos_token_id == sorted(
        [tokenizer.bos_id, tokenizer.require("eos")]
    )  # a next document ends this one
    assert settings.pad_token_id == tokenizer.pad_id
    reader = auto_tokenizer(tmp_path / "out")
    assert reader.padding_side == "left"
    batch = reader(["one", "a longer text than that"], padding=True, return_tensors="pt")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    written = model.generate(**batch, max_new_tokens=4, do_sample=False)
    assert written.shape[1] <= batch["input_ids"].size(1) + 4
