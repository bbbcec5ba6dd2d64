"""Generation against slow truths: without a cache, one by one, and as `transformers` does it."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.generation import logits_process as published
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.common.compiler import find_compiler
from pipeline.common.errors import HallmarkError
from pipeline.model.block import Memory
from pipeline.model.cache import DecoderCache
from pipeline.model.generation.decoding import decoding_step
from pipeline.model.generation.fast import COMPILE_PAYS_FROM_STEPS, FastHead, choose_compile, fast_copy
from pipeline.model.generation.generator import Generator
from pipeline.model.generation.sampling import (
    Chooser,
    draw,
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalize_repetition,
)
from pipeline.model.generation.settings import GenerationSettings
from pipeline.model.generation.texts import TextGenerator, TextPieces
from pipeline.model.interchange.renaming import from_published
from pipeline.model.interchange.settings import read_settings
from pipeline.model.presets import PRESETS
from pipeline.model.transformer import Transformer
from pipeline.model.weights import named_weights, save_checkpoint_folder
from pipeline.tokenization.tokenizer import Tokenizer
from pipeline.tokenization.training import train_tokenizer
from tests.model.published import random_model
from tests.model.test_parts import OTHER_PARTS, preset_model, tiny_model

GREEDY = GenerationSettings(max_new_tokens=7)
DRAWN = replace(GREEDY, temperature=1.3, top_k=20, top_p=0.95, min_p=0.01, repetition_penalty=1.2, seed=5)
PROMPTS = [[5, 9, 3, 22], [7], [30, 31, 2]]
DECODING = [name for name, parts in PRESETS.items() if parts["family"] != "encoder"]
MODELS = {name: partial(preset_model, name) for name in DECODING} | {
    name: partial(tiny_model, **parts) for name, parts in OTHER_PARTS.items()
}


def without_cache(model: Transformer, prompt: list[int], chosen: GenerationSettings, start_id: int) -> list[int]:
    """Every token from a pass over the whole text so far."""
    is_decoder = model.config.family == "decoder"
    ids = list(prompt) if is_decoder else [start_id]
    begun = len(ids)
    chooser = Chooser(chosen, [ids], model.config.vocab_size, torch.device("cpu"))
    for _ in range(chosen.max_new_tokens):
        target = None if is_decoder else torch.tensor([ids])
        logits = model(torch.tensor([ids if is_decoder else prompt]), None, target)
        ids.append(int(chooser.choose(logits[:, -1].float())))
    return ids[begun:]


@torch.inference_mode()
@pytest.mark.parametrize("name", MODELS)
def test_a_cached_batch_writes_what_each_text_alone_writes_without_a_cache(name: str) -> None:
    model = MODELS[name]()
    for chosen in (GREEDY, DRAWN):
        batch = Generator(model, 1).generate(PROMPTS, chosen)
        for row, prompt in enumerate(PROMPTS):
            alone = replace(chosen, seed=chosen.seed + row)
            assert batch[row] == without_cache(model, prompt, alone, 1)
            assert batch[row] == Generator(model, 1).generate([prompt], alone)[0]


@pytest.mark.parametrize("name", MODELS)
def test_beams_of_a_batch_are_those_of_each_text(name: str) -> None:
    model, chosen = MODELS[name](), replace(GREEDY, beams=3, repetition_penalty=1.1)
    batch = Generator(model, 1).generate(PROMPTS, chosen, ends=[4, 17])
    assert batch == [Generator(model, 1).generate([prompt], chosen, ends=[4, 17])[0] for prompt in PROMPTS]


def test_a_seed_decides_the_draws() -> None:
    generator = Generator(tiny_model())
    one, same, other = (generator.generate(PROMPTS, replace(DRAWN, seed=seed)) for seed in (5, 5, 6))
    assert one == same
    assert one != other


def test_a_row_ends_at_an_end_token_and_the_others_go_on() -> None:
    generator = Generator(tiny_model())
    whole = generator.generate(PROMPTS, GREEDY)
    end = whole[0][2]
    expected = [row[: row.index(end) + 1] if end in row else row for row in whole]
    assert generator.generate(PROMPTS, GREEDY, ends=[end]) == expected
    assert len(expected[0]) <= 3


# the same as `transformers`


def pair(kind: str) -> tuple[Any, Transformer]:
    """A random model of `transformers`, and its weights in ours."""
    theirs = random_model(kind, 60)
    model_type, config = read_settings(theirs.config.to_dict(), kind)
    renamed = from_published(model_type, config, theirs.state_dict(), kind)
    ours = Transformer(renamed.config).eval()
    ours.load_state_dict(renamed.weights, strict=False)
    return theirs, ours


def their_tokens(theirs: Any, prompts: Sequence[list[int]], ends: list[int] | None, **options: Any) -> list[list[int]]:
    """What their `generate` adds to prompts of one length, up to the end token."""
    ids = torch.tensor(prompts)
    theirs.generation_config.eos_token_id, theirs.generation_config.pad_token_id = ends, 0
    with torch.inference_mode():
        found = theirs.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **options)
    begun = 1 if theirs.config.is_encoder_decoder else ids.size(1)
    rows = found[:, begun:].tolist()
    return [next((row[: n + 1] for n, token in enumerate(row) if token in (ends or [])), row) for row in rows]


@pytest.mark.parametrize("kind", ["llama", "llama-tied", "qwen3", "gpt2", "t5", "t5-v1.1"])
def test_greedy_and_beams_equal_transformers(kind: str) -> None:
    theirs, ours = pair(kind)
    prompts = torch.randint(3, 60, (3, 6), generator=torch.Generator().manual_seed(1)).tolist()
    for penalty in (1.0, 1.4):
        chosen = GenerationSettings(max_new_tokens=16, repetition_penalty=penalty)
        options = {"max_new_tokens": 16, "repetition_penalty": penalty}
        plain = their_tokens(theirs, prompts, None, **options)
        assert Generator(ours).generate(prompts, chosen) == plain
        ends = [plain[0][3], 11]
        assert Generator(ours).generate(prompts, chosen, ends) == their_tokens(theirs, prompts, ends, **options)
        for beams, length_penalty in ((2, 1.0), (4, 0.0), (3, 2.0), (4, -1.0)):
            chosen_beams = replace(chosen, beams=beams, length_penalty=length_penalty)
            options_beams = options | {"num_beams": beams, "length_penalty": length_penalty}
            for given_ends in (None, ends):
                assert Generator(ours).generate(prompts, chosen_beams, given_ends or []) == their_tokens(
                    theirs, prompts, given_ends, **options_beams
                )


# Far enough from one another that no order depends on rounding.
LOGITS = st.lists(st.integers(-64, 64), min_size=12, max_size=12, unique=True).map(lambda row: torch.tensor([row]) / 8)


@settings(max_examples=60, deadline=None)
@given(LOGITS, st.integers(1, 14), st.floats(0.05, 0.95), st.floats(0.01, 1), st.floats(0.5, 2), st.data())
def test_each_filter_equals_the_published_one(
    logits: Tensor, k: int, p: float, least: float, penalty: float, data: st.DataObject
) -> None:
    ids: Any = torch.tensor([data.draw(st.lists(st.integers(0, 11), min_size=1, max_size=5))])
    seen = torch.zeros(1, 12, dtype=torch.bool).scatter(1, ids, True)
    assert torch.equal(keep_top_k(logits, k), published.TopKLogitsWarper(k)(ids, logits))
    assert torch.equal(keep_top_p(logits, p), published.TopPLogitsWarper(p)(ids, logits))
    assert torch.equal(keep_min_p(logits, least), published.MinPLogitsWarper(least)(ids, logits))
    expected = published.RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone())
    assert torch.equal(penalize_repetition(logits, seen, penalty), expected)


@settings(max_examples=60, deadline=None)
@given(LOGITS, st.integers(1, 14), st.floats(0.05, 0.95), st.floats(0.01, 1))
def test_each_filter_against_its_definition(logits: Tensor, k: int, p: float, least: float) -> None:
    probabilities = logits[0].double().softmax(0).tolist()
    ranked = sorted(range(12), key=lambda token: -probabilities[token])

    def kept(narrowed: Tensor) -> set[int]:
        return set(narrowed[0].isfinite().nonzero().flatten().tolist())

    assert kept(keep_top_k(logits, k)) == set(ranked[:k])
    sums = [sum(probabilities[token] for token in ranked[:count]) for count in range(13)]
    if all(abs(total - p) > 1e-5 for total in sums):
        assert kept(keep_top_p(logits, p)) == set(ranked[: next(n for n in range(1, 13) if sums[n] > p)])
    if all(abs(probability - least * max(probabilities)) > 1e-7 for probability in probabilities):
        expected = {token for token in range(12) if probabilities[token] >= least * max(probabilities)}
        assert kept(keep_min_p(logits, least)) == expected


def test_draws_are_as_frequent_as_they_are_likely_and_never_of_what_was_left_out() -> None:
    logits = torch.tensor([[0.0, float("-inf"), 1.0, 2.0, float("-inf")]])
    uniform = torch.arange(1000, dtype=torch.float64) / 1000
    counts = draw(logits.expand(1000, -1), uniform).bincount(minlength=5)
    expected = logits[0].softmax(0) * 1000
    assert ((counts - expected).abs() <= 1).all()
    assert counts[[1, 4]].tolist() == [0, 0]


# fast forms


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", ["gpt2", "qwen3", "t5"])
def test_the_fast_copy_computes_the_same(name: str, rows: int) -> None:
    model = preset_model(name)
    network = fast_copy(model, rows)
    assert isinstance(network.lm_head, FastHead)
    assert network.embedding.tokens.weight is model.embedding.tokens.weight
    ids, positions = torch.arange(rows)[:, None] + 5, torch.zeros(rows, 1, dtype=torch.long)
    found = []
    with torch.inference_mode():
        memory = model.encode(ids) if model.encoder is not None else None
        for each in (model, network):
            cache = DecoderCache.empty(model.config, rows, 8, torch.float32, torch.device("cpu"))
            found.append(decoding_step(each, ids, positions, memory, cache))
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler here")
def test_compiled_steps_write_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    model = preset_model("qwen3", num_layers=1)
    compiled, eager = (Generator(model, compile=compile) for compile in ("always", "never"))
    assert (compiled.reasons["steps"], eager.reasons["steps"]) == ("compiled (asked for)", "eager (asked for)")
    assert compiled.generate(PROMPTS[:2], DRAWN) == eager.generate(PROMPTS[:2], DRAWN)
    beams = replace(GREEDY, beams=2)  # two rows again, so nothing is compiled anew
    assert compiled.generate(PROMPTS[:1], beams) == eager.generate(PROMPTS[:1], beams)


def test_steps_are_compiled_when_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name)
    cpu = torch.device("cpu")
    assert choose_compile("auto", cpu, COMPILE_PAYS_FROM_STEPS)[0]
    assert choose_compile("auto", cpu, COMPILE_PAYS_FROM_STEPS - 1) == (
        False,
        "eager (5,999 steps at most, compiling pays from 6,000)",
    )
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert choose_compile("auto", cpu, 10**9) == (False, "eager (no C++ compiler here)")
    with pytest.raises(HallmarkError, match="no C\\+\\+ compiler"):
        choose_compile("always", cpu, 1)
    with pytest.raises(HallmarkError, match="unknown 'yes'; allowed: auto, always, never"):
        choose_compile("yes", cpu, 1)


def test_bfloat16_works_on_a_copy() -> None:
    model = tiny_model()
    generator = Generator(model, precision="bfloat16")
    assert generator.model.embedding.tokens.weight.dtype == torch.bfloat16
    assert model.embedding.tokens.weight.dtype == torch.float32
    assert generator.model.decoder is not None
    assert generator.model.decoder.rope_cos.dtype == torch.float32
    assert [len(row) for row in generator.generate(PROMPTS, GREEDY)] == [7, 7, 7]
    with pytest.raises(HallmarkError, match="unknown 'int8'; allowed: float32, bfloat16"):
        Generator(model, precision="int8")


# what is refused


def test_all_wrong_settings_are_told_at_once() -> None:
    with pytest.raises(HallmarkError) as told:
        GenerationSettings(max_new_tokens=0, top_k=0, top_p=1.5, beams=2, stop=("", "x"), repetition_penalty=0.0)
    for part in ("8 problems", "max_new_tokens: 0", "top_k: 0; allowed: 1", "top_p: 1.5; allowed", "not with beams"):
        assert part in str(told.value)
    with pytest.raises(HallmarkError, match="beam search draws nothing"):
        GenerationSettings(beams=2, temperature=0.5)
    with pytest.raises(HallmarkError, match=r"length_penalty: 0\.5; only read with beams above 1"):
        GenerationSettings(length_penalty=0.5)


@pytest.mark.parametrize("name", [name for name in PRESETS if name not in DECODING])
def test_an_encoder_continues_nothing(name: str) -> None:
    with pytest.raises(HallmarkError, match="an encoder continues no text"):
        Generator(preset_model(name))


def test_what_does_not_fit_is_refused_with_the_counts() -> None:
    generator = Generator(tiny_model())
    with pytest.raises(HallmarkError) as told:
        generator.generate([[1], [], [1] * 6], GREEDY)
    assert "prompt 1: empty" in str(told.value)
    assert "prompt 2: 6 tokens + max_new_tokens 7 > the context of 12" in str(told.value)
    with pytest.raises(HallmarkError, match=r"(?s)max_new_tokens 13 is more.*prompt 0: 14 tokens; the encoder's"):
        Generator(preset_model("t5")).generate([[1] * 14], replace(GREEDY, max_new_tokens=13))


# texts

TOKENIZERS = {
    "bytes": train_tokenizer(["x"], "bytes", 293),
    "bpe": train_tokenizer(["Übung macht 模型 the end, the the 🦊🦊 \n\n"] * 4, "bpe", 310),
    "wordpiece": train_tokenizer(["Übung macht 模型 the end, the the modelling"] * 4, "wordpiece", 380),
}


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(sorted(TOKENIZERS)), st.lists(st.integers(0, 400), max_size=30), st.text(max_size=12))
def test_pieces_are_the_text_and_split_no_character(kind: str, noise: list[int], text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = [*tokenizer.encode(text), *(token % tokenizer.vocab_size for token in noise)]
    pieces = TextPieces(tokenizer)
    found = [pieces.push(token) for token in ids]
    assert "".join([*found, pieces.finish()]) == pieces.text == tokenizer.decode(ids)
    if not noise and "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in found)


@settings(max_examples=80, deadline=None)
@given(st.text(alphabet="ab模🦊", max_size=24), st.lists(st.text("ab模🦊", min_size=1, max_size=4), max_size=3))
def test_a_text_ends_before_its_first_stop_string(text: str, stop: list[str]) -> None:
    tokenizer = TOKENIZERS["bytes"]
    pieces, found = TextPieces(tokenizer, stop), []
    for token in tokenizer.encode(text):
        found.append(pieces.push(token))
        if pieces.stopped:
            break
    ends = [text.find(one) + len(one) for one in stop if one in text]  # the first that is complete
    complete = text[: min(ends)] if ends else text
    expected = complete[: min((complete.find(one) for one in stop if one in complete), default=len(complete))]
    assert "".join([*found, pieces.finish()]) == pieces.text == expected
    assert pieces.stopped == bool(ends)


def text_model(preset: str = "qwen3") -> tuple[Transformer, Tokenizer]:
    tokenizer = TOKENIZERS["bytes"]
    return preset_model(preset, vocab_size=tokenizer.vocab_size, context_length=48), tokenizer


@pytest.mark.parametrize("preset", ["qwen3", "t5"])
def test_texts_alone_in_a_batch_and_in_pieces_are_the_same(preset: str) -> None:
    generator = TextGenerator(*text_model(preset))
    prompts = ["a longer one", "", "b"]
    for chosen in (replace(GREEDY, max_new_tokens=20), replace(DRAWN, max_new_tokens=20), replace(GREEDY, beams=2)):
        batch = generator.generate(prompts, chosen)
        for row, (prompt, found) in enumerate(zip(prompts, batch, strict=True)):
            alone = replace(chosen, seed=chosen.seed + row)
            assert generator.generate([prompt], alone)[0] == found
            assert "".join(generator.stream(prompt, alone)) == found.text == generator.tokenizer.decode(found.ids)
            assert found.reason == ("end" if found.ids[-1] in generator.ends else "length")


def test_a_stop_string_ends_a_text() -> None:
    generator = TextGenerator(*text_model())
    chosen = replace(DRAWN, max_new_tokens=30, seed=3)
    whole = generator.generate(["x"], chosen)[0]
    stop = next(letter for letter in whole.text[2:] if letter != "\ufffd")
    found = generator.generate(["x"], replace(chosen, stop=(stop,)))[0]
    assert (
        found.text
        == whole.text[: whole.text.index(stop)]
        == "".join(generator.stream("x", replace(chosen, stop=(stop,))))
    )
    assert (found.reason, found.ids) == ("stop", whole.ids[: len(found.ids)])


# the command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's root with a model in `model`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").touch()
    model, tokenizer = text_model()
    save_checkpoint_folder(tmp_path / "model", named_weights(model), {"model": model.config.to_dict()}, tokenizer)
    return tmp_path / "model"


def test_the_command_writes_texts(folder: Path) -> None:
    run = partial(CliRunner().invoke, app)
    options = ["--max-new-tokens", "9", "--temperature", "1.5", "--seed", "4"]
    expected = TextGenerator.load(folder).generate(["ab", "c"], GenerationSettings(9, temperature=1.5, seed=4))
    shown = f"ab{expected[0].text}\n\nc{expected[1].text}\n"
    for form in ([], ["--no-stream"]):
        done = run(["generate", "model", "ab", "c", *options, *form])
        assert (done.exit_code, done.stdout) == (0, shown), done.output
        assert "precision: float32, steps: eager" in done.stderr
    assert run(["generate", "model", *options], input="ab\nc\n").stdout == shown
    done = run(["generate", "model", "ab", "c", *options, "--json"])
    assert json.loads(done.stdout) == [found.to_dict() for found in expected]


def test_the_command_says_what_is_wrong(folder: Path) -> None:
    run = partial(CliRunner().invoke, app)
    for arguments, message in (
        (["generate"], "there is no prompt"),
        (["generate", "pretrain", "x"], "there is no model of the stage 'pretrain'"),
        (["generate", "model", "x", "--top-k", "3"], "top_k: 3; only read with a temperature above 0"),
        (["generate", "model", "x", "--max-new-tokens", "60"], "2 tokens + max_new_tokens 60 > the context of 48"),
    ):
        done = run(arguments, input="")
        assert (done.exit_code, message in done.stderr) == (1, True), done.output


def test_a_fine_tuned_model_is_refused(folder: Path) -> None:
    model, tokenizer = text_model()
    described = {"model": model.config.to_dict(), "task": {"kind": "classification"}}
    save_checkpoint_folder(folder, named_weights(model), described, tokenizer)
    with pytest.raises(HallmarkError, match=r"fine-tuned for a task(?s:.*)hallmark generate pretrain"):
        TextGenerator.load(folder)


def test_memory_rows_follow_their_texts() -> None:
    """Beam search takes rows of the memory, too, also where sources have different lengths."""
    model, chosen = preset_model("transformer-2017"), replace(GREEDY, beams=4, max_new_tokens=10)
    sources = [[5, 6, 7, 8, 9, 10, 11], [12]]
    assert isinstance(model.encode(torch.tensor(sources[:1])), Memory)
    assert Generator(model, 1).generate(sources, chosen)[1] == Generator(model, 1).generate(sources[1:], chosen)[0]
