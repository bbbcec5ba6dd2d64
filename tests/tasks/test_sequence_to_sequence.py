"""Text to text: loss over the targets' tokens alone, few sizes, decoding against a plain loop, one answer per text."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax

from pipeline.common.errors import HallmarkError
from pipeline.model.config import ModelConfig
from pipeline.model.generation.decoding import Decoding, decoding_step
from pipeline.tasks.kinds import KINDS
from pipeline.tasks.rows import draw_rows
from pipeline.tasks.sequence_to_sequence import SIZE_SHARES, SequenceToSequence, choose_sizes, fit_sizes
from pipeline.tasks.text_writer import NO_TARGET, SequenceModel, TextWriter, load_writer, source_rows
from pipeline.tasks.trained import save_trained
from pipeline.tokenization.tokenizer import Tokenizer
from pipeline.training.runtime import MOST_SHAPES, Runtime
from tests.tasks.learning import learn
from tests.tasks.pairs import make_config, make_rows, make_task, make_tokenizer

FAMILIES = ("encoder-decoder", "decoder")
PARTS = ("blocks.0", "norm")
TASK = {"kind": "sequence_to_sequence", "max_tokens": 24, "max_target_tokens": 12, "length_penalty": 1.0}


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return make_rows()


@pytest.fixture(scope="module")
def tokenizer(rows: pd.DataFrame) -> Tokenizer:
    return make_tokenizer(rows)


def random_model(config: ModelConfig, smoothing: float = 0.0) -> SequenceModel:
    torch.manual_seed(0)
    model = SequenceModel(config, smoothing)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def next_logits(model: SequenceModel, tokenizer: Tokenizer, source: list[int], target: list[int]) -> Tensor:
    """The plain way, of one pair alone: logits of what follows each of the target's tokens, and of its first."""
    body, is_decoder = model.body, model.body.config.family == "decoder"
    if is_decoder:
        return body(torch.tensor([source + target]))[0, len(source) - 1 :]
    return body(torch.tensor([source]), None, torch.tensor([[tokenizer.bos_id, *target]]))[0]


def test_the_entry_of_the_kind_is_this_task(rows: pd.DataFrame, tokenizer: Tokenizer) -> None:
    task = make_task(rows, tokenizer, make_config(tokenizer, "encoder-decoder"), {"measure": "bleu"})
    assert KINDS[task.config["kind"]].prepare is SequenceToSequence
    assert task.best_metric == "bleu"
    assert task.facts["train_texts"] == 24
    assert task.facts["train_texts_cut"] == task.facts["train_targets_cut"] == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_that_of_each_targets_tokens_one_pair_at_a_time(
    rows: pd.DataFrame, tokenizer: Tokenizer, family: str
) -> None:
    task, model = (
        make_task(rows, tokenizer, make_config(tokenizer, family)),
        random_model(make_config(tokenizer, family)),
    )
    nats, tokens, slow = 0.0, 0, 0.0
    with torch.no_grad():
        for _ in range(task.batches().steps_per_epoch):
            [batch], _ = next(task.batches())
            summed, count = task.loss(model, batch)
            nats, tokens = nats + float(summed), tokens + int(count)
        for source, target in zip(task.learned.sources, task.learned.targets, strict=True):
            logits = next_logits(model, tokenizer, source, target[:-1])
            slow -= float(log_softmax(logits, dim=-1).gather(1, torch.tensor(target)[:, None]).sum())
    assert tokens == sum(map(len, task.learned.targets)) == task.facts["target_tokens"]
    assert nats == pytest.approx(slow, rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_that_fill_the_batch_change_neither_loss_nor_count(
    rows: pd.DataFrame, tokenizer: Tokenizer, family: str
) -> None:
    config = make_config(tokenizer, family)
    task, model = make_task(rows, tokenizer, config, batch_size=32), random_model(config)
    [batch], _ = next(task.batches())
    assert len(batch["input_ids"]) == 32 > 24
    full = {name: value[:24] for name, value in batch.items()}
    for found, expected in zip(task.loss(model, batch), task.loss(model, full), strict=True):
        torch.testing.assert_close(found, expected)


def test_labels_are_smoothed_in_training_alone(rows: pd.DataFrame, tokenizer: Tokenizer) -> None:
    config = make_config(tokenizer, "encoder-decoder")
    model = random_model(config, smoothing=0.2)
    [batch], _ = next(make_task(rows, tokenizer, config).batches())
    visible = torch.arange(batch["input_ids"].size(1)) < batch["lengths"][:, None]
    logits = model.body(batch["input_ids"], visible, batch["target_ids"]).flatten(0, 1)
    for smoothing in (0.0, 0.2):
        model.train(smoothing > 0)
        expected = cross_entropy(
            logits, batch["labels"].flatten(), ignore_index=NO_TARGET, reduction="sum", label_smoothing=smoothing
        )
        torch.testing.assert_close(model(batch).sum(), expected)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("beams", [1, 3])
def test_what_is_written_for_a_text_depends_on_nothing_else(
    rows: pd.DataFrame, tokenizer: Tokenizer, tmp_path: Path, family: str, beams: int
) -> None:
    save_trained(
        tmp_path / "m", random_model(make_config(tokenizer, family)), TASK | {"beams": beams}, "float32", tokenizer
    )
    writer = load_writer(tmp_path / "m")
    texts = [*dict.fromkeys(rows["text"]), "", "rot " * 30]
    alone = [writer.predict([text])[0] for text in texts]
    assert writer.predict(texts) == alone
    assert writer.predict(texts[::-1]) == alone[::-1]
    assert len(set(alone)) > 1


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rows_numbers_are_the_same_bits_at_any_place_of_the_batch(
    rows: pd.DataFrame, tokenizer: Tokenizer, family: str, dtype: torch.dtype
) -> None:
    model = random_model(make_config(tokenizer, family)).to(dtype)
    sources, _ = source_rows(rows["text"].tolist(), tokenizer, family == "decoder", 16)

    def logits_of(rows: list[list[int]]) -> Tensor:
        decoding = Decoding(model.body, rows, tokenizer.bos_id, 8, partial(decoding_step, model.body), 16)
        return decoding.logits_BV

    for first in range(0, 24, 8):
        batch = sources[first : first + 8]
        found = logits_of(batch)
        assert torch.equal(logits_of(batch[::-1]), found.flip(0))
        assert torch.equal(logits_of([batch[3]] * 8)[0], found[3])


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_text_is_that_of_a_loop_without_cache_or_batch(
    rows: pd.DataFrame, tokenizer: Tokenizer, family: str
) -> None:
    config = make_config(tokenizer, family)
    model, end = random_model(config), tokenizer.require("eos")
    writer = TextWriter(model, tokenizer, TASK | {"beams": 1, "precision": "float32"})
    texts = rows["text"].unique().tolist()
    sources, _ = source_rows(texts, tokenizer, family == "decoder", writer.room)
    expected = []
    for source in sources:
        target: list[int] = []
        while len(target) < 12 and end not in target:
            with torch.no_grad():
                target.append(int(next_logits(model, tokenizer, source, target)[-1].argmax()))
        expected.append(tokenizer.decode(target).strip())
    assert writer.predict(texts) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_it_learns_the_words(rows: pd.DataFrame, tokenizer: Tokenizer, family: str) -> None:
    train = rows[rows["split"] == "train"]
    seen = pd.concat([train, train.assign(id=train["id"] + "-seen", split="validation")], ignore_index=True)
    task = make_task(seen, tokenizer, make_config(tokenizer, family), batch_size=8)
    model = learn(task, 90, clip=1.0)
    with torch.no_grad():
        found = task.measure(model, torch.device("cpu"))
    assert found["chrf"] > 70
    assert found["loss"] < 1
    assert set(found) == {"loss", "chrf", "bleu", "rouge_1", "rouge_2", "rouge_l"}


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 20)), min_size=1, max_size=60))
def test_every_row_has_the_smallest_of_a_few_sizes_that_holds_it(lengths: list[tuple[int, int]]) -> None:
    lengths_N2 = np.array(lengths)
    sizes_K2 = choose_sizes(lengths_N2, 40)
    assert 1 <= len(sizes_K2) <= 4
    assert (np.diff(sizes_K2[:, 0]) > 0).all()
    assert sizes_K2.max() <= 40
    for length, place in zip(lengths_N2, fit_sizes(lengths_N2, sizes_K2), strict=True):
        assert place == next(number for number, size in enumerate(sizes_K2) if (length <= size).all())


def test_long_texts_are_cut_and_a_cut_target_has_no_end(rows: pd.DataFrame, tokenizer: Tokenizer) -> None:
    end = tokenizer.require("eos")
    long = pd.concat([rows.assign(text="rot blau " * 20), rows], ignore_index=True)
    long.loc[0, "target"] = "blue " * 40
    for family, room in (("encoder-decoder", 24), ("decoder", 24), ("decoder", 28)):
        task = make_task(long, tokenizer, make_config(tokenizer, family, room + 12), max_tokens=room)
        assert max(map(len, task.learned.sources)) == room
        assert task.facts["train_texts_cut"] == 24
        assert task.facts["train_targets_cut"] == 1
        assert sum(target[-1] != end for target in task.learned.targets) == 1
        assert all(len(batch[0]["input_ids"][0]) <= room + 12 for batch, _ in [next(task.batches())])


def test_loss_and_blocks_are_compiled_and_no_more(tokenizer: Tokenizer) -> None:
    model = random_model(make_config(tokenizer, "encoder-decoder"))
    Runtime(torch.device("cpu"), torch.float32, True, {}).compile_blocks(model)
    compiled = [name for name, module in model.named_modules() if module._compiled_call_impl is not None]
    assert compiled == [*(f"body.{stack}.{part}" for stack in ("encoder", "decoder") for part in PARTS), "head"]
    assert 2 * len(SIZE_SHARES) <= MOST_SHAPES  # on a GPU: an encoder's block, and a decoder's


def test_targets_have_room_where_nothing_is_asked(rows: pd.DataFrame, tokenizer: Tokenizer) -> None:
    for family, most in (("decoder", 10), ("encoder-decoder", 24)):
        task = make_task(rows, tokenizer, make_config(tokenizer, family), {"max_target_tokens": None})
        assert task.config["max_target_tokens"] == most


def test_a_draw_takes_so_many_pairs(rows: pd.DataFrame) -> None:
    assert set(draw_rows(rows, 4, seed=1)["id"]) < set(draw_rows(rows, 8, seed=1)["id"])
    assert len(draw_rows(rows, None, seed=1)) == len(rows)


def test_what_cannot_be_learned_is_refused(rows: pd.DataFrame, tokenizer: Tokenizer, tmp_path: Path) -> None:
    config = make_config(tokenizer, "encoder")
    with pytest.raises(HallmarkError, match=r"model.preset: an encoder writes no text.*\n.*transformer-2017"):
        make_task(rows, tokenizer, config).model()
    with pytest.raises(HallmarkError, match=r"finetune.adapt: .*nothing would learn"):
        make_task(rows, tokenizer, make_config(tokenizer, "decoder"), adapt="head")
    with pytest.raises(HallmarkError, match=r"max_target_tokens of the task: the context of 40 tokens does not fit"):
        make_task(rows, tokenizer, make_config(tokenizer, "decoder"), {"max_target_tokens": 36})
    other = TASK | {"kind": "classification", "labels": []}
    save_trained(tmp_path / "m", random_model(make_config(tokenizer, "decoder")), other, "float32", tokenizer)
    with pytest.raises(HallmarkError, match="task is 'classification', not 'sequence_to_sequence'"):
        load_writer(tmp_path / "m")
