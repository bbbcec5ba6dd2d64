"""A folder of our own as one that stock `transformers`, and what reads such folders, load without code of ours.

config.json, model.safetensors, tokenizer.json, tokenizer_config.json, generation_config.json where text is generated,
chat_template.jinja where dialogues are answered; a classifier without a stock class has head.safetensors and a
README.md with the lines that use it. hallmark.json names the sha256 of all of them: a folder without it was not written
here, and is left alone.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from pipeline.common.errors import HallmarkError, allowed
from pipeline.common.files import read_json, sha256_file, sync_file, sync_folder
from pipeline.model.config import ModelConfig
from pipeline.model.generation.settings import end_ids
from pipeline.model.interchange.architectures import ARCHITECTURES
from pipeline.model.interchange.renaming import to_published
from pipeline.model.interchange.settings import find_architecture, write_settings
from pipeline.model.interchange.tokenizer_files import to_json, tokenizer_files
from pipeline.model.weights import CONFIG, TOKENIZER_FILE, WEIGHTS, read_weights
from pipeline.tokenization.tokenizer import Tokenizer

MANIFEST, HEAD_FILE, README = "hallmark.json", "head.safetensors", "README.md"
CHAT_TEMPLATE, TEMPLATE_FILE = "chat_template", "chat_template.jinja"
SHOWN = 5  # files named in a refusal
LINEAR = 2.0**-14  # so near zero tanh(x) is x to float32's last digits, and a power of two loses none

USE_OF_HEAD = """\
# A classifier in two parts

The stock body `{body}` and a linear head on {pooled}. These lines label {texts}:

```python
import json

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, {body}

folder = "."  # the one that this file lies in
tokenizer = AutoTokenizer.from_pretrained(folder)
body = {body}.from_pretrained(folder).eval()
head = load_file(f"{{folder}}/head.safetensors")
with open(f"{{folder}}/config.json", encoding="utf-8") as file:
    labels = json.load(file)["id2label"]

def probabilities(texts):
    batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    mask = batch["attention_mask"]
    with torch.inference_mode():
        states = body(**batch).last_hidden_state
        vectors = {vectors}
        return (vectors @ head["weight"].T{bias}).{activation}

for row in probabilities([{examples}]):
    print(labels[str(int(row.argmax()))], row.tolist())
```
"""
POOLED = {
    "mean": ("the mean of all token vectors", "(states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)"),
    "first": ("the first token's vector", "states[:, 0]"),
    "last": ("the last token's vector", "states[torch.arange(len(states)), mask.sum(1) - 1]"),
}


CLASSIFIERS = {  # kind of task -> its name in transformers, and how logits become probabilities
    "classification": ("single_label_classification", "softmax(-1)"),
    "multi_label_classification": ("multi_label_classification", "sigmoid()"),
}
TEXTS = ("texts", '"a text", "another, longer text"')
PAIRS = ("pairs of texts", '("a text", "its second text"), ("another, longer text", "one more")')


@dataclass
class Export:
    """What is written.

    Attributes:
        model_class: of `transformers`, that loads it.
        files: bytes by name.
        notes: what a person should know of it.
    """

    model_class: str
    files: dict[str, bytes]
    notes: list[str] = field(default_factory=list)


def export_model(folder: Path | str, target: Path | str) -> tuple[Export, bool]:
    """Write the folder of a language model, classifier or model of dialogues in its stock form.

    The same model always gives the same bytes.

    Args:
        folder: as `save_checkpoint_folder` wrote it.
        target: a folder that is new, empty, or of an earlier export.

    Returns:
        What was written, and whether it was not there before.

    Raises:
        HallmarkError: no stock architecture has these parts, or `target` holds anything else.
    """
    target = Path(target)
    _refuse_foreign(target)
    weights, described, tokenizer = read_weights(folder)
    config = ModelConfig.from_dict(described["model"])
    content = (Path(folder) / TOKENIZER_FILE).read_bytes()
    task = described.get("task", {})
    if CHAT_TEMPLATE in task:
        export = _chat_model(config, weights, task, tokenizer, content)
    elif task:
        export = _classifier(config, weights, task, tokenizer, content)
    else:
        export = _language_model(config, weights, tokenizer, content)
    return export, _write(target, export.files)


def _language_model(config: ModelConfig, weights: Mapping[str, Tensor], tokenizer: Tokenizer, content: bytes) -> Export:
    model_type = find_architecture(config)
    architecture = ARCHITECTURES[model_type]
    model_class = architecture.language
    if config.pair_head:
        model_class = architecture.language_with_pairs or model_class
    settings = _settings(model_type, config, tokenizer, model_class)
    published = to_published(model_type, config, weights, tokenizer.pad_id)
    files = {CONFIG: to_json(settings), WEIGHTS: _save(published)}
    if config.family != "encoder":
        files["generation_config.json"] = to_json(_generation(config, tokenizer))
    max_tokens = config.context_length
    files |= tokenizer_files(tokenizer, content, config, max_tokens=max_tokens, classifier=False)
    return Export(model_class, dict(sorted(files.items())))


def _chat_model(
    config: ModelConfig, weights: Mapping[str, Tensor], task: Mapping[str, Any], tokenizer: Tokenizer, content: bytes
) -> Export:
    """A language model that was tuned on dialogues, with the template that it has learned."""
    language_model = {name.removeprefix("body."): value for name, value in weights.items()}
    export = _language_model(config, language_model, tokenizer, content)
    export.files = dict(sorted({**export.files, TEMPLATE_FILE: task[CHAT_TEMPLATE].encode()}.items()))
    return export


def _settings(model_type: str, config: ModelConfig, tokenizer: Tokenizer, model_class: str) -> dict[str, Any]:
    settings = write_settings(model_type, config, tokenizer.pad_id) | {
        "architectures": [model_class],
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": tokenizer.eos_id,
    }
    if config.family == "encoder-decoder":
        settings["decoder_start_token_id"] = tokenizer.bos_id
    return settings


def _generation(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "bos_token_id": tokenizer.bos_id,
        "eos_token_id": sorted(end_ids(tokenizer, config.family)),
        "pad_token_id": tokenizer.pad_id,
    }
    if config.family == "encoder-decoder":
        settings["decoder_start_token_id"] = tokenizer.bos_id
    return settings


def _classifier(
    config: ModelConfig,
    weights: Mapping[str, Tensor],
    task: Mapping[str, Any],
    tokenizer: Tokenizer,
    content: bytes,
) -> Export:
    if task["kind"] not in CLASSIFIERS:
        raise HallmarkError(
            f"a model of kind {task['kind']} has no stock form here; {allowed(CLASSIFIERS)}",
            fix="use the packaged model, models/register/TASK",
        )
    if any(name.startswith("experts.") for name in weights):
        raise HallmarkError(
            "no stock form has the linear classifiers of n-grams that this model answers with, too",
            where="params.yaml: finetune.ngrams",
            fix="set it to false and dvc repro, or use the packaged model, models/register/TASK",
        )
    problem_type, activation = CLASSIFIERS[task["kind"]]
    model_type = find_architecture(config, body_only=True)
    architecture, pooling = ARCHITECTURES[model_type], task["pooling"]
    body = {name.removeprefix("body."): value for name, value in weights.items() if name.startswith("body.")}
    head = {name.removeprefix("head."): value for name, value in weights.items() if name.startswith("head.")}
    needed = {"decoder": "last", "encoder": "first"}.get(config.family)
    fits = architecture.classifier is not None and pooling == needed and (pooling != "last" or "bias" not in head)
    model_class = architecture.classifier if fits and architecture.classifier else architecture.body
    names = {str(place): label for place, label in enumerate(task["labels"])}
    settings = _settings(model_type, config, tokenizer, model_class) | {
        "id2label": names,
        "label2id": {label: int(place) for place, label in names.items()},
        "problem_type": problem_type,
    }
    files = tokenizer_files(tokenizer, content, config, max_tokens=task["max_tokens"], classifier=True)
    notes = []
    if task["precision"] != "float32":
        notes.append(f"here it predicts in {task['precision']}, there in float32 unless told otherwise")
    if fits:
        whole = body | {f"head.{name}": value for name, value in head.items()}
        if config.family == "encoder":
            whole |= _linear_pooler(whole, config.hidden_size)
            notes.append("its pooler is scaled into the linear range of tanh, which our head has not")
        published = to_published(model_type, config, whole, tokenizer.pad_id)
    else:
        published = to_published(model_type, config, body, tokenizer.pad_id)
        published = {name.removeprefix(architecture.prefix): value for name, value in published.items()}
        pooled, vectors = POOLED[pooling]
        bias = ' + head["bias"]' if "bias" in head else ""
        read, examples = PAIRS if task.get("pairs") else TEXTS
        text = USE_OF_HEAD.format(
            body=model_class,
            pooled=pooled,
            vectors=vectors,
            bias=bias,
            activation=activation,
            texts=read,
            examples=examples,
        )
        files |= {HEAD_FILE: _save(head), README: text.encode()}
        notes.append(f"no stock class of {model_type} classifies by {pooled}; {HEAD_FILE} and {README} do")
        if needed is not None and architecture.classifier is not None:
            notes.append(f"for {architecture.classifier} set finetune.pooling: {needed}, then dvc repro")
    files |= {CONFIG: to_json(settings), WEIGHTS: _save(published)}
    return Export(model_class, dict(sorted(files.items())), notes)


def _linear_pooler(weights: Mapping[str, Tensor], size: int) -> dict[str, Tensor]:
    """BERT's head is W tanh(P x): with P = e I and W / e it is W x, to e^2 x^2 / 3 of it."""
    return {
        "head.pooler.weight": torch.eye(size) * LINEAR,
        "head.pooler.bias": torch.zeros(size),
        "head.weight": weights["head.weight"] / LINEAR,
    }


def _save(tensors: Mapping[str, Tensor]) -> bytes:
    return save(dict(sorted(tensors.items())), metadata={"format": "pt"})


def _refuse_foreign(target: Path) -> None:
    """Leave alone what an export did not write: a file, or a folder with anything in it that no manifest names so."""
    manifest = target / MANIFEST
    known: dict[str, str] = read_json(manifest)["files"] if manifest.is_file() else {}
    present = [path for path in target.rglob("*") if path.is_file() and path != manifest]
    changed = [target.name] if target.is_file() else []
    for path in present:
        name = path.relative_to(target).as_posix()
        if name not in known or sha256_file(path) != known[name]:
            changed.append(name)
    if changed:
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        raise HallmarkError(
            f"an export did not write {', '.join(sorted(changed)[:SHOWN])}{more}, so nothing here is overwritten",
            where=str(target),
            fix="name a new folder, or remove this one",
        )


def _write(target: Path, files: Mapping[str, bytes]) -> bool:
    """Write a whole folder under a temporary name, then rename it; False if it is there already, to the bit."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        for name, content in files.items():
            (temporary / name).write_bytes(content)
        hashes = {name: sha256_file(temporary / name) for name in sorted(files)}
        (temporary / MANIFEST).write_bytes(to_json({"files": hashes}))
        if (target / MANIFEST).exists() and sha256_file(target / MANIFEST) == sha256_file(temporary / MANIFEST):
            return False
        for path in temporary.iterdir():
            sync_file(path)
        sync_folder(temporary)
        if target.exists():
            target.rename(old)
        temporary.rename(target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return True
