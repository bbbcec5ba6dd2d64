"""What is predicted from what: each objective against its definition, and its golden curve."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.common.errors import HallmarkError
from pipeline.model.transformer import Transformer
from pipeline.tokenization.training import train_tokenizer
from pipeline.training.masking import NO_TARGET, Masking
from pipeline.training.mixture import Mixture
from pipeline.training.objectives import (
    OBJECTIVES,
    PretrainingLoss,
    Validation,
    choose_objective,
    prefix_row,
)
from pipeline.training.spans import SpanCorruption
from tests.training.tiny import (
    CONTEXT,
    SONNETS,
    tiny_config,
    tiny_objective,
    tiny_runtime,
    tiny_shard,
    tiny_tokenizer,
)

EVERY_OBJECTIVE = [name for names in OBJECTIVES.values() for name in names]
GOLDEN = Path(__file__).with_name("golden_losses.json")
SEEDS = st.integers(0, 2**32)


def ids_of(text: str) -> np.ndarray:
    return np.array(tiny_tokenizer().encode(text))


@settings(max_examples=50, deadline=None)
@given(st.text(min_size=1, max_size=60), SEEDS, st.booleans(), st.sampled_from([0.1, 0.15, 0.5]))
def test_masking_hides_what_it_says_and_nothing_special(text: str, seed: int, whole_words: bool, share: float) -> None:
    tokenizer, bos = tiny_tokenizer(), tiny_tokenizer().bos_id
    ids = np.concatenate(([bos], ids_of(text), [bos]))
    row = Masking(tokenizer, share, whole_words)(ids, np.random.default_rng(seed))
    count = max(1, round(share * len(ids)))
    hidden = row["labels"] != NO_TARGET
    assert row["masked_positions"].shape == row["labels"].shape == (count,)
    positions = row["masked_positions"][hidden]
    assert len(set(positions.tolist())) == len(positions)
    assert np.array_equal(ids[positions], row["labels"][hidden])
    assert not tokenizer.is_special[row["labels"][hidden]].any()
    untouched = np.ones(len(ids), dtype=bool)
    untouched[positions] = False
    assert np.array_equal(row["input_ids"][untouched], ids[untouched])
    if not whole_words:
        assert hidden.sum() == min(count, len(ids) - 2)


def test_hidden_tokens_are_mask_random_or_themselves_at_80_10_10() -> None:
    ids = ids_of("the quick brown fox jumps over the lazy dog " * 400)
    row = Masking(tiny_tokenizer(), 0.5, False)(ids, np.random.default_rng(0))
    seen, labels = row["input_ids"][row["masked_positions"]], row["labels"]
    masked, kept = seen == tiny_tokenizer().mask_id, seen == labels
    assert masked.mean() == pytest.approx(0.8, abs=0.02)
    assert kept.mean() == pytest.approx(0.1 + 0.1 / 256, abs=0.02)
    assert not tiny_tokenizer().is_special[seen[~masked]].any()


def test_whole_words_are_hidden_whole() -> None:
    text = "alpha beta gamma delta epsilon zeta eta theta iota kappa"
    row = Masking(tiny_tokenizer(), 0.4, True)(ids_of(text), np.random.default_rng(3))
    groups = np.cumsum(tiny_tokenizer().starts_word[ids_of(text)])
    assert len(set(groups.tolist())) == 10
    masked = set(row["masked_positions"][row["labels"] != NO_TARGET].tolist())
    assert masked
    for group in set(groups.tolist()):
        members = set(np.flatnonzero(groups == group).tolist())
        assert members <= masked or not members & masked


@settings(max_examples=50, deadline=None)
@given(st.integers(8, 60), st.sampled_from([0.1, 0.15, 0.3, 0.5]), st.sampled_from([1.0, 2.0, 3.0]), SEEDS)
def test_source_and_target_of_span_corruption_give_the_text_back(
    length: int, share: float, mean_span: float, seed: int
) -> None:
    tokenizer = tiny_tokenizer()
    spans = SpanCorruption.fit(tokenizer, length, share, mean_span)
    assert spans.source_length <= length
    ids = np.random.default_rng(seed).integers(200, 290, spans.length)
    row = spans(ids, np.random.default_rng(seed))
    source, target = row["input_ids"].tolist(), row["labels"].tolist()
    assert (len(source), len(target)) == (spans.source_length, spans.target_length)
    assert source.pop() == target.pop() == tokenizer.eos_id
    marks = set(tokenizer.sentinel_ids)
    gaps: dict[int, list[int]] = {}
    for token in target:
        if token in marks:
            gaps[token] = []
        else:
            gaps[[*gaps][-1]].append(token)
    assert list(gaps) == [*tokenizer.sentinel_ids[: spans.gaps]]
    assert all(gaps.values())
    text = [piece for token in source for piece in (gaps[token] if token in marks else [token])]
    assert text == ids.tolist()
    assert row["target_ids"].tolist() == [tokenizer.bos_id, *row["labels"].tolist()[:-1]]


def test_more_gaps_than_marks_are_refused_with_the_settings_to_change() -> None:
    with pytest.raises(HallmarkError, match=r"(?s)gaps, and the tokenizer has 32 marks.*raise mean_span"):
        SpanCorruption.fit(tiny_tokenizer(), 500, 0.5, 1.0)


def test_pairs_go_on_or_come_from_elsewhere() -> None:
    tokenizer, text = tiny_tokenizer(), Mixture(tiny_shard())
    objective = tiny_objective("mlm+nsp")
    pieces, make_row = objective.plan(text)(0, None).pieces_P2, objective.make_row(text)
    outcomes = []
    for place, piece in enumerate(pieces.tolist() * 4):
        ids = text.shard.tokens[slice(*piece)].astype(np.int64)
        row = make_row(np.array([piece]), np.random.default_rng(place))
        original = row["input_ids"].copy()
        valid = row["labels"] != NO_TARGET
        original[row["masked_positions"][valid]] = row["labels"][valid]
        length = int(row["attention_mask"].sum())
        a, b = original[:length][row["segments"][:length] == 0], original[:length][row["segments"][:length] == 1]
        assert a[0] == tokenizer.bos_id
        assert a[-1] == b[-1] == tokenizer.sep_id
        assert np.array_equal(a[1:-1], ids[: len(a) - 2])
        assert np.array_equal(b[:-1], ids[len(a) - 2 :]) == bool(row["goes_on"])
        outcomes.append(int(row["goes_on"]))
    assert 0.3 < np.mean(outcomes) < 0.7


def test_nothing_of_a_prefix_is_predicted() -> None:
    ids = np.arange(100, 125)
    for seed in range(20):
        row = prefix_row(ids, np.random.default_rng(seed))
        (prefix,) = row["prefix"]
        assert np.array_equal(row["labels"] == NO_TARGET, np.arange(24) < prefix - 1)
        assert np.array_equal(row["labels"][prefix - 1 :], ids[prefix:])


def test_a_family_learns_only_what_it_can() -> None:
    assert [choose_objective(None, family) for family in OBJECTIVES] == ["causal", "mlm", "span-corruption"]
    with pytest.raises(
        HallmarkError, match=r"(?s)family decoder does not learn 'mlm'; allowed: causal, prefix-lm.*encoder"
    ):
        choose_objective("mlm", "decoder")


@pytest.mark.parametrize("objective", EVERY_OBJECTIVE)
def test_the_loss_is_a_plain_loop_over_all_targets(objective: str) -> None:
    torch.manual_seed(0)
    model = Transformer(tiny_config(objective)).double().eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    (batch,), _ = next(tiny_objective(objective).batches(tiny_shard(), 3 * CONTEXT, None, seed=2))
    nats, count = PretrainingLoss(tiny_runtime(precision="float32"))(model, batch)
    total, targets = 0.0, 0
    for row in range(3):
        one = {name: value[row : row + 1] for name, value in batch.items()}
        if objective == "span-corruption":
            states = model.decode(one["target_ids"], model.encode(one["input_ids"]))[0]
        else:
            states = model.hidden_states(
                one["input_ids"],
                one.get("attention_mask"),
                segments_BT=one.get("segments"),
                prefix_BS=one.get("prefix"),
            )[0]
        places = one["masked_positions"][0] if "masked_positions" in one else torch.arange(len(states))
        for place, label in zip(places.tolist(), one["labels"][0].tolist(), strict=True):
            if label != NO_TARGET:
                total -= model.logits(states)[place].log_softmax(-1)[label].item()
                targets += 1
        if model.pair_head is not None:
            told = model.pair_head(states[None])[0].log_softmax(-1)[int(one["goes_on"])]
            total -= one["labels"].size(1) * told.item()
    assert int(count) == targets
    assert nats.item() == pytest.approx(total, rel=1e-9)


def test_bits_per_byte_of_a_uniform_model_is_known() -> None:
    tokenizer = tiny_tokenizer()
    model = Transformer(tiny_config("causal")).eval()
    assert model.lm_head is not None
    torch.nn.init.zeros_(model.lm_head.weight)
    values = Validation(tiny_objective("causal"), tiny_shard(), tokenizer, 4, torch.device("cpu"))(model)
    assert values["loss"] == pytest.approx(math.log(tokenizer.vocab_size), rel=1e-5)
    assert values["bits_per_byte"] == pytest.approx(math.log2(tokenizer.vocab_size), rel=1e-5)


def test_there_are_no_bits_per_byte_where_the_tokenizer_loses_text() -> None:
    """Tokens that hide spaces and rare characters would make a model look better than it is."""
    pieces = train_tokenizer(SONNETS, "wordpiece", tiny_tokenizer().vocab_size)
    assert not pieces.is_lossless
    model = Transformer(tiny_config("causal")).eval()
    values = Validation(tiny_objective("causal"), tiny_shard(), pieces, 4, torch.device("cpu"))(model)
    assert set(values) == {"loss", "accuracy"}


def test_validation_counts_what_is_predicted_exactly() -> None:
    model = Transformer(tiny_config("mlm+nsp")).eval()
    assert model.pair_head is not None
    torch.nn.init.zeros_(model.pair_head.classifier.weight)
    with torch.no_grad():
        model.pair_head.classifier.bias.copy_(torch.tensor([0.0, 1.0]))
    validation = Validation(tiny_objective("mlm+nsp"), tiny_shard(), tiny_tokenizer(), 4, torch.device("cpu"))
    goes_on = torch.cat([batch["goes_on"] for batch in validation.batches]).float().mean()
    values = validation(model)
    assert values["pair_accuracy"] == pytest.approx(float(goes_on))
    assert 0 <= values["accuracy"] <= 1
    assert "bits_per_byte" not in values


@pytest.mark.parametrize("name", EVERY_OBJECTIVE)
def test_logits_in_parts_give_the_same_loss_gradients_and_figures(name: str) -> None:
    torch.manual_seed(0)
    model, runtime = Transformer(tiny_config(name)).double(), tiny_runtime(precision="float32")
    objective = tiny_objective(name)
    (batch,), _ = next(objective.batches(tiny_shard(), 4 * CONTEXT, None, seed=0))
    found = []
    for size in (None, 5):
        model.zero_grad()
        nats, count = PretrainingLoss(runtime, size)(model, batch)
        nats.backward()
        gradients = {key: weight.grad.clone() for key, weight in model.named_parameters() if weight.grad is not None}
        measure = Validation(objective, tiny_shard(), tiny_tokenizer(), 3, runtime.device, logit_tokens=size)
        with torch.no_grad():
            found.append(({"nats": nats.detach(), "count": count} | gradients, measure(model)))
    (whole, figures), (in_parts, figures_in_parts) = found
    torch.testing.assert_close(in_parts, whole, atol=1e-12, rtol=1e-10)
    assert figures_in_parts == pytest.approx(figures, rel=1e-12)


def golden_curve(objective: str) -> list[float]:
    """The first 50 losses of a tiny network in float64, from NumPy's normal numbers.

    Between processors they differ only behind the tenth digit; torch's own random numbers differ before that.
    """
    generator = np.random.default_rng(0)
    model = Transformer(tiny_config(objective)).double()
    for parameter in model.parameters():
        parameter.data = torch.from_numpy(generator.normal(0.0, 0.1, parameter.shape))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    loss, batches = (
        PretrainingLoss(tiny_runtime(precision="float32")),
        tiny_objective(objective).batches(tiny_shard(), 4 * CONTEXT, None, seed=0),
    )
    losses = []
    for _ in range(50):
        (batch,), _ = next(batches)
        nats, count = loss(model, batch)
        optimizer.zero_grad()
        (nats / count).backward()
        optimizer.step()
        losses.append(float(nats.detach() / count))
    return losses


@pytest.mark.parametrize("objective", EVERY_OBJECTIVE)
def test_golden_losses(objective: str) -> None:
    """A curve that changes is a change of the model, the objective or the data path: is it meant? Then type

    python -m tests.training.test_objectives
    """
    expected = json.loads(GOLDEN.read_text(encoding="utf-8"))[objective]
    assert golden_curve(objective) == pytest.approx(expected, rel=1e-7)
    assert expected[-1] < expected[0]


if __name__ == "__main__":
    curves = {name: [float(f"{loss:.12g}") for loss in golden_curve(name)] for name in EVERY_OBJECTIVE}
    GOLDEN.write_text(json.dumps(curves, indent=1) + "\n", encoding="utf-8")
