"""The benchmark of fine-tuning: its texts and arms at toy size, its arithmetic, and what it refuses."""

import json
from importlib.util import find_spec
from typing import Any

import pytest

from benchmarks.__main__ import main
from benchmarks.arms import finetuning
from benchmarks.finetune import format_result
from benchmarks.synthetic import make_tokenizer
from pipeline.tasks.encoding import encode_rows
from tests.benchmarks.arms import rounds_of

TOY: dict[str, Any] = {
    "preset": "bert",
    "depth": 1,
    "width": 64,
    "vocab_size": 400,
    "max_tokens": 40,
    "texts": 10,
    "batch": 4,
    "compiled": False,
}
needs_accelerate = pytest.mark.skipif(find_spec("accelerate") is None, reason="pip install -e .[bench]")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("preset", ["bert", "qwen3"])
def test_our_arm_trains_an_epoch_a_round(preset: str, precision: str) -> None:
    arm = {"arm": "hallmark-eager", "preset": preset, "precision": precision}
    _start, *rounds = rounds_of(finetuning.hallmark, TOY | arm)
    assert all(one["steps"] == 3 and one["texts"] == 10 for one in rounds)


@needs_accelerate
@pytest.mark.parametrize("arm", ["trainer", "trainer-grouped"])
def test_trainer_trains_an_epoch_a_round(arm: str) -> None:
    _start, *rounds = rounds_of(finetuning.trainer, TOY | {"arm": arm, "precision": "float32"})
    assert all(one["steps"] == 3 and one["texts"] == 10 for one in rounds)


def test_texts_are_139_tokens_on_average_and_256_at_most() -> None:
    tokenizer = make_tokenizer(400)
    rows = finetuning._rows(TOY | {"texts": 1000, "max_tokens": 256}, tokenizer)
    ids, cut = encode_rows(rows["text"].tolist(), tokenizer, 256)
    lengths = [len(tokens) for tokens in ids]
    assert cut == 0
    assert (min(lengths), max(lengths)) == (22, 256)
    assert sum(lengths) / len(lengths) == pytest.approx(139, abs=4)
    assert (rows["split"] == "train").sum() == 1000


def test_padding_reaches_to_the_longest_text_of_a_batch() -> None:
    from benchmarks.arms.trainer import padded

    batch = padded(7)([{"input_ids": [1, 2, 3], "label": 1}, {"input_ids": [4], "label": 0}])
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 7, 7]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [1, 0]


@needs_accelerate
def test_a_real_run_measures_ours_beside_trainer(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["finetune", "--json", "--layers", "1", "--width", "64", "--vocab-size", "400", "--max-tokens", "40"]
    command += ["--texts", "10", "--batch", "4", "--repeats", "3"]
    main([*command, "--arms", "hallmark-eager,trainer", "--precisions", "float32"])
    found = json.loads(capsys.readouterr().out)
    ours, theirs = found["arms"]["hallmark-eager float32"], found["arms"]["trainer float32"]
    for arm in (ours, theirs):
        assert arm["examples_per_second"] == pytest.approx(10 / sorted(arm["epoch_seconds"])[1])
    ratios = [theirs["epoch_seconds"][place] / ours["epoch_seconds"][place] for place in range(3)]
    assert ours["ratio"] == {"trainer": pytest.approx(sorted(ratios)[1])}
    assert theirs["ratio"] == {"trainer": 1}
    assert f"{ours['examples_per_second']:.1f}" in format_result(found)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(SystemExit, match="there is no fast; allowed: hallmark-eager, hallmark-compiled, trainer"):
        main(["finetune", "--arms", "fast"])
    with pytest.raises(SystemExit, match="there is no float16; allowed: float32, bfloat16"):
        main(["finetune", "--precisions", "float16"])
