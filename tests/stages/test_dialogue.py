"""A task of dialogues through the doors: tuned, stopped and gone on, measured, served."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipeline.common.files import read_json, sha256_folder
from pipeline.common.layout import FINETUNED, PREDICTIONS, PRETRAINED, SCRATCH_ARM, clean_task, metrics_file
from pipeline.common.params import Params
from pipeline.common.tables import read_table, records, write_table
from pipeline.evaluation.int8 import measure_int8
from pipeline.evaluation.report.facts import task_facts
from pipeline.evaluation.report.page import write_report
from pipeline.model.transformer import Transformer
from pipeline.model.weights import WEIGHTS, named_weights, read_weights, save_checkpoint_folder
from pipeline.serving.kinds import SERVED
from pipeline.serving.package import write_package
from pipeline.serving.reload import predict_in_fresh_process
from pipeline.serving.save import save_pyfunc
from pipeline.stages import evaluate, finetune
from pipeline.stages.door import Stage
from pipeline.tasks.batches import Batch
from pipeline.tasks.dialogue import Dialogue
from pipeline.tokenization.training import train_bpe
from pipeline.tracking.journal import Journal
from tests.evaluation.test_report import make_facts
from tests.stages.conftest import StoppedError
from tests.tasks.test_dialogue import make_config, make_rows

Open = Callable[..., Stage]


@pytest.fixture
def open_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens stages of the task `chat` in a working directory with its rows and a pretrained model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HALLMARK_HOME", str(tmp_path / ".hallmark"))
    monkeypatch.setattr("pipeline.training.runtime.matmul_flops_per_second", lambda runtime: 1e12)
    rows = make_rows()
    write_table(clean_task("chat"), rows)
    tokenizer = train_bpe([text * 5 for text in rows["text"]], 330)
    torch.manual_seed(3)
    config = make_config(tokenizer)
    save_checkpoint_folder(PRETRAINED, named_weights(Transformer(config)), {"model": config.to_dict()}, tokenizer)

    def make(name: str, key: str = "0" * 64, **settings: object) -> Stage:
        params = Params.model_validate(
            {
                "source": {"kind": "files"},
                "compute": {"device": "cpu", "precision": "float32", "compile": "never"},
                "finetune": {"epochs": 3, "batch_size": 2, "max_tokens": 56, "learning_rate": 0.01} | settings,
                "tasks": {"chat": {"kind": "dialogue", "path": "chat.jsonl", "labels_per_class": None}},
                "evaluate": {"bootstrap_samples": 50},
            }
        )
        return Stage(name, key, {}, params, Journal(key))

    return make


@pytest.mark.usefixtures("warm_executable")
def test_the_whole_way_from_rows_to_a_served_model(open_stage: Open, tmp_path: Path) -> None:
    for arm in ("finetune", "scratch"):
        finetune.main(open_stage(f"{arm}@chat"))
    evaluate.main(open_stage("evaluate@chat"))
    metrics, predictions = read_json(metrics_file("evaluate@chat")), read_table(PREDICTIONS / "chat.parquet")
    assert metrics["test_rows"] == len(predictions) == 8
    assert metrics["token_accuracy"]["value"] > metrics["baselines"]["unigram"]["token_accuracy"]["value"]
    learned = read_json(metrics_file("finetune@chat"))
    assert learned["validation"]["perplexity"] < 330
    check_page(open_stage("report").params, tmp_path / "report")

    report = measure_int8("chat", open_stage("evaluate@chat").params)
    assert report.full == metrics["token_accuracy"]
    assert report.int8_rows_per_second > 0

    served = SERVED["dialogue"]
    rows = read_table(clean_task("chat"))
    requests = [served.request(row) for row in records(rows.set_index("id", drop=False).loc[predictions["id"]])][:3]
    package = write_package(FINETUNED / "chat", tmp_path / "package", requests[:2])
    save_pyfunc(package, tmp_path / "served")
    too_long = {"messages": [{"role": "user", "content": "?" * 5000}]}
    *answers, refused = predict_in_fresh_process(tmp_path / "served", [*requests, too_long], refusals=True)
    assert refused["refused"].startswith("the last turn is longer than")
    assert [set(answer) for answer in answers] == [{"role", "content"}] * 3
    assert not any(served.compare(*pair).other for pair in zip(records(predictions), answers, strict=False))


def check_page(params: Params, folder: Path) -> None:
    facts = make_facts()
    facts["tasks"] = [task_facts("chat", params.tasks["chat"], params)]
    facts["data"]["tasks"]["chat"] = facts["data"]["tasks"]["kind"]
    write_report(folder, facts)
    for page in ("index.html", "report.md"):
        text = (folder / page).read_text(encoding="utf-8")
        for part in ("Task chat", "token accuracy", "perplexity per token", "unigram of the answers", "What is"):
            assert part in text, (page, part)


def test_both_arms_differ_in_where_they_start_the_head_included(open_stage: Open) -> None:
    still = {"learning_rate": 1e-12, "weight_decay": 0.0, "epochs": 1}
    finetune.main(open_stage("finetune@chat", **still))
    (PRETRAINED / WEIGHTS).rename("elsewhere")
    finetune.main(open_stage("scratch@chat", **still))
    Path("elsewhere").rename(PRETRAINED / WEIGHTS)
    pretrained, _, _ = read_weights(PRETRAINED)
    for name in ("lm_head.weight", "embedding.tokens.weight"):
        apart = {
            arm: float((read_weights(arm / "chat")[0][f"body.{name}"] - pretrained[name]).abs().max())
            for arm in (FINETUNED, SCRATCH_ARM)
        }
        assert apart[FINETUNED] < 1e-6 < 1e-3 < apart[SCRATCH_ARM]


@pytest.mark.parametrize("adapt", ["full", "lora"])
def test_a_stopped_tuning_goes_on_to_the_same_bytes(
    open_stage: Open, monkeypatch: pytest.MonkeyPatch, adapt: str
) -> None:
    finetune.main(open_stage("finetune@chat", adapt=adapt))
    undisturbed = sha256_folder(FINETUNED / "chat"), metrics_file("finetune@chat").read_bytes()
    monkeypatch.setattr(finetune, "CHECKPOINT_EVERY", 2)
    whole, calls = Dialogue.loss, 0

    def cut_off(self: Dialogue, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        if calls > 4:
            raise StoppedError
        return whole(self, model, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Dialogue, "loss", cut_off)
        with pytest.raises(StoppedError):
            finetune.main(open_stage("finetune@chat", key="2" * 64, adapt=adapt))
    finetune.main(open_stage("finetune@chat", key="2" * 64, adapt=adapt))
    assert (sha256_folder(FINETUNED / "chat"), metrics_file("finetune@chat").read_bytes()) == undisturbed
