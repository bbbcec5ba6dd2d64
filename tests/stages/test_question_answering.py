"""Question answering through its doors: the threshold of no answer is chosen on validation and heeded from then on."""

import pandas as pd
import pytest
import torch

from pipeline.common.files import read_json, read_jsonl
from pipeline.common.layout import FINETUNED, PRETRAINED, clean_task, metrics_file
from pipeline.common.tables import write_table
from pipeline.evaluation.cross_validation import cross_validate
from pipeline.model.config import ModelConfig
from pipeline.model.transformer import Transformer
from pipeline.model.weights import named_weights, save_checkpoint_folder
from pipeline.stages import evaluate, finetune
from pipeline.tasks import finetuning
from pipeline.tasks.answer_metrics import answer_figures, score_all
from pipeline.tasks.kinds import Kind
from pipeline.tasks.question_answering import load_answerer, read_answers
from pipeline.tokenization.training import train_bpe
from tests.stages.conftest import MakeStage
from tests.tasks.test_question_answering import make_rows

TASK = {"kind": "question_answering", "path": "facts.json"}


@pytest.fixture
def asked(make_stage: MakeStage) -> pd.DataFrame:
    """The task's rows, written; beside them a pretrained encoder that knows nothing."""
    rows = make_rows()
    write_table(clean_task("kind"), rows)
    tokenizer = train_bpe([text * 5 for text in (*rows["text"], *rows["pair"])], 340)
    torch.manual_seed(3)
    sizes = (tokenizer.vocab_size, 16, 2, 2, 24, 48)
    config = ModelConfig(*sizes, tied_embeddings=False, dropout=0.0, family="encoder", segments=2)
    save_checkpoint_folder(PRETRAINED, named_weights(Transformer(config)), {"model": config.to_dict()}, tokenizer)
    return rows


def f1_on(rows: pd.DataFrame, split: str) -> float:
    own = rows[rows["split"] == split]
    predicted = load_answerer(FINETUNED / "kind").predict(own["pair"].tolist(), own["text"].tolist())
    sums = score_all([each.answer for each in predicted], read_answers(own)).sum(axis=0)
    return float(answer_figures(sums)["f1"])


def test_the_threshold_is_in_the_config_and_in_all_figures(make_stage: MakeStage, asked: pd.DataFrame) -> None:
    for arm in ("finetune", "scratch"):
        finetune.main(make_stage(f"{arm}@kind", labels_per_class=None, epochs=1, validation_texts=50, task=TASK))
    metrics = read_json(metrics_file("finetune@kind"))
    threshold = read_json(FINETUNED / "kind" / "config.json")["task"]["threshold"]
    assert threshold == metrics["threshold"] != 0
    curve = read_jsonl(FINETUNED / "kind" / "metrics.jsonl")
    [untuned] = [point["validation_f1"] for point in curve if "validation_f1" in point]
    assert untuned < metrics["validation"]["f1"] == pytest.approx(f1_on(asked, "validation"))
    evaluate.main(make_stage("evaluate@kind", labels_per_class=None, task=TASK))
    tested = read_json(metrics_file("evaluate@kind"))
    assert tested["threshold"] == threshold
    assert tested["f1"]["value"] == pytest.approx(f1_on(asked, "test"))


def test_a_held_out_fold_is_measured_with_the_threshold_of_its_training(
    make_stage: MakeStage, asked: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = finetuning.KINDS["question_answering"]
    never_answer = Kind(kind.prepare, kind.load, tune=lambda *_: {"threshold": 1e9})
    monkeypatch.setattr(finetuning, "KINDS", finetuning.KINDS | {"question_answering": never_answer})
    params = make_stage("finetune@kind", labels_per_class=None, epochs=1, task=TASK).params
    found = cross_validate("kind", params, 2)
    assert [fold["f1"] for fold in found.folds] == pytest.approx([1 / 3, 1 / 3])
