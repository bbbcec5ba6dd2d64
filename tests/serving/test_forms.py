"""What classifiers of pairs and of any number of labels are asked and answer, in the process that loads them."""

from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pytest
import torch
from mlflow.exceptions import MlflowException

from pipeline.common.params import Model
from pipeline.model.config import derive_config
from pipeline.serving.kinds import find_served
from pipeline.serving.package import write_package
from pipeline.serving.save import save_pyfunc
from pipeline.tasks.classification import TextClassifier
from pipeline.tasks.kinds import KINDS
from pipeline.tasks.trained import save_trained
from pipeline.tokenization.training import train_bpe
from tests.serving.conftest import LABELS, TEXTS


@pytest.mark.parametrize(("kind", "pairs"), [("classification", True), ("multi_label_classification", False),
                                             ("multi_label_classification", True)])  # fmt: skip
def test_the_served_model_says_what_the_trained_one_says(kind: str, pairs: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tokenizer = train_bpe(iter(TEXTS * 3), 300)
    sizes = Model(depth=1, hidden_size=32, num_heads=2, intermediate_size=64, context_length=64)
    config, _ = derive_config(sizes, tokenizer.vocab_size)
    model = TextClassifier(config, len(LABELS), "mean")
    torch.nn.init.normal_(model.head.weight)
    task = {"kind": kind, "labels": LABELS, "pooling": "mean", "max_tokens": 48, "pairs": pairs}
    save_trained(tmp_path / "model", model, task, "float32", tokenizer)

    rows: list[Any] = [{"text": text, "pair": text[::-1]} for text in TEXTS[:6]]
    served, texts = find_served(kind, pairs), [(row["text"], row["pair"]) if pairs else row["text"] for row in rows]
    asked = [served.request(row) for row in rows]
    package = write_package(tmp_path / "model", tmp_path / "package", asked[:2])
    assert package.pairs == pairs
    save_pyfunc(package, tmp_path / "saved")
    loaded: Any = mlflow.pyfunc.load_model(str(tmp_path / "saved"))
    answers = [answer.model_dump() for answer in loaded.predict(asked)]
    trained = KINDS[kind].load(tmp_path / "model", "cpu")
    expected = [dict(zip(LABELS, map(float, row), strict=True)) for row in trained.predict_probabilities(texts)]
    assert [answer["probabilities"] for answer in answers] == expected
    said = "label" if kind == "classification" else "labels"
    assert [answer[said] for answer in answers] == trained.predict(texts)
    with pytest.raises(MlflowException):
        loaded.predict([{"text": "alone"}] if pairs else [3])
