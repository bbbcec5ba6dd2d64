"""From a published model to pretraining's start: the doors `import`, `tokenizer`, `encode` and `pretrain`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from pipeline.common.errors import HallmarkError
from pipeline.common.files import read_json, read_jsonl, sha256_folder
from pipeline.common.layout import CLEAN_DOCUMENTS, IMPORTED, PRETRAINED, TOKENIZER, metrics_file
from pipeline.common.params import Params, check_params
from pipeline.common.tables import write_table
from pipeline.model.config import ModelConfig
from pipeline.model.interchange.importing import starting_model
from pipeline.model.weights import named_weights, read_weights
from pipeline.stages import encode, import_model, pretrain, tokenizer
from pipeline.stages.door import Stage
from pipeline.tasks.assistant import DialogueModel
from pipeline.tasks.classification import TextClassifier
from pipeline.tasks.kinds import KINDS
from pipeline.tasks.question_answering import QuestionAnswerer
from pipeline.tasks.text_writer import SequenceModel
from pipeline.tasks.token_classification import TokenClassifier
from pipeline.tasks.trained import save_trained
from pipeline.tokenization.training import train_bpe
from pipeline.tracking.journal import Journal
from tests.model.published import SAMPLE, publish

PUBLISHED = "published"  # relative to the project, as a person may write it


def make_stage(name: str, init_from: str | None = f"hf:{PUBLISHED}", steps: int = 0, **model: Any) -> Stage:
    params = Params.model_validate(
        {
            "compute": {"device": "cpu", "precision": "float32", "compile": "never"},
            "model": {"init_from": init_from, "context_length": 32, **model},
            "pretrain": {"steps": steps or (600 if init_from is None else 0), "batch_tokens": 64},
        }
    )
    return Stage(name, "0" * 64, {}, params, Journal("0" * 64))


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HALLMARK_HOME", str(tmp_path / ".hallmark"))
    monkeypatch.setattr("pipeline.training.runtime.matmul_flops_per_second", lambda runtime: 1e12)
    splits = ["train"] * 8 + ["validation"] * 4
    write_table(CLEAN_DOCUMENTS, pd.DataFrame({"text": [" ".join(SAMPLE)] * 12, "split": splits, "source": "a"}))


def test_without_a_model_the_folder_says_so_in_the_same_bytes() -> None:
    import_model.main(make_stage("import", None))
    first = sha256_folder(IMPORTED)
    assert read_json(IMPORTED / "config.json") == {"import": None}
    publish("gpt2", Path(PUBLISHED))
    import_model.main(make_stage("import"))
    import_model.main(make_stage("import", None))  # what was there before is gone
    assert sha256_folder(IMPORTED) == first


def test_a_published_model_is_what_fine_tuning_starts_from(capsys: pytest.CaptureFixture[str]) -> None:
    publish("gpt2", Path(PUBLISHED))
    import_model.main(make_stage("import"))
    tokenizer.main(make_stage("tokenizer"))
    assert (TOKENIZER / "tokenizer.json").read_bytes() == Path(PUBLISHED, "tokenizer.json").read_bytes()
    encode.main(make_stage("encode"))
    pretrain.main(make_stage("pretrain"))
    shown = capsys.readouterr().out
    assert "import  init_from: hf:published (gpt2)" in shown
    assert "pretrain  context_length: 32 of its 160 (set)" in shown
    imported, _, _ = read_weights(IMPORTED)
    started, described, _ = read_weights(PRETRAINED)
    imported["embedding.positions.weight"] = imported["embedding.positions.weight"][:32]
    assert started.keys() == imported.keys()
    assert all(torch.equal(started[name], imported[name]) for name in started)
    assert described["model"]["context_length"] == 32
    [point] = read_jsonl(PRETRAINED / "metrics.jsonl")
    assert (point["step"], point["validation_loss"]) == (0, read_json(metrics_file("pretrain"))["validation_loss"])


def test_pretraining_goes_on_from_it() -> None:
    publish("bert-mlm", Path(PUBLISHED))
    for door in (import_model, tokenizer, encode, pretrain):
        door.main(make_stage(door.__name__.rpartition(".")[2], steps=2))
    imported, started = read_weights(IMPORTED)[0], read_weights(PRETRAINED)[0]
    assert started.keys() == imported.keys()
    moved = [name for name in started if not torch.equal(started[name], imported[name]) and "positions" not in name]
    assert "encoder.blocks.0.attention.q_proj.weight" in moved
    assert 0 < (started["lm_head.dense.weight"] - imported["lm_head.dense.weight"]).abs().max() < 0.2


def save_task_model(kind: str, family: str, folder: Path) -> dict[str, torch.Tensor]:
    """A model of a kind of task as `finetune` leaves it, with random weights; the weights of its body."""
    texts = train_bpe(SAMPLE * 20, 300)
    torch.manual_seed(1)
    config = ModelConfig(texts.vocab_size, 16, 2, 2, 24, 40, tied_embeddings=False, dropout=0.0, family=family)
    networks: dict[str, Callable[[], Any]] = {
        "classification": lambda: TextClassifier(config, 3, "mean"),
        "multi_label_classification": lambda: TextClassifier(config, 3, "mean"),
        "token_classification": lambda: TokenClassifier(config, 5),
        "question_answering": lambda: QuestionAnswerer(config, texts.separator_id),
        "sequence_to_sequence": lambda: SequenceModel(config),
        "dialogue": lambda: DialogueModel(config),
    }
    model = networks[kind]()
    save_trained(folder, model, {"kind": kind}, "float32", texts)
    return named_weights(model.body)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_every_kind_is_a_start(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    body = save_task_model(kind, "decoder", Path("made"))
    stage = make_stage("import", "hallmark:made")
    import_model.main(stage)
    assert f"import  init_from: hallmark:made ({kind})" in capsys.readouterr().out
    weights, described, learned = read_weights(IMPORTED)
    assert weights.keys() == body.keys()
    assert all(torch.equal(weights[name], body[name]) for name in body)
    told = described["import"]
    own_head = "lm_head.weight" not in body
    assert told["missing"] == (["lm_head.weight"] if own_head else [])
    assert bool(told["left_behind"]) == own_head
    model, decided = starting_model(stage.params.model, IMPORTED, learned.vocab_size, pair_head=False)
    started = named_weights(model)
    assert all(torch.equal(started[name], body[name]) for name in body)
    assert decided.get("starts_at_random") == ("lm_head.weight" if own_head else None)


def test_a_model_without_its_decoder_and_a_stage_of_this_build_are_no_start() -> None:
    save_task_model("classification", "encoder-decoder", Path("made"))
    with pytest.raises(HallmarkError, match="this model of kind classification has no decoder any more"):
        import_model.main(make_stage("import", "hallmark:made"))
    with pytest.raises(HallmarkError, match="'finetune@mood' is made from what this stage leaves"):
        import_model.main(make_stage("import", "hallmark:finetune@mood"))
    with pytest.raises(HallmarkError, match=r"'made' has no scheme; allowed: .*hallmark:NAME@ALIAS"):
        import_model.main(make_stage("import", "made"))


def test_no_steps_need_a_model_to_start_from() -> None:
    with pytest.raises(HallmarkError, match=r"pretrain.steps: 0 needs model.init_from"):
        check_params({"pretrain": {"steps": 0}}, "params.yaml")
