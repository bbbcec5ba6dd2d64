"""Question answering: windows behind their question, the loss over allowed places, best spans, the trained answerer."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from pipeline.common.answers import Answer, answers_from_json, answers_to_json
from pipeline.common.errors import HallmarkError
from pipeline.common.params import Finetune, Task
from pipeline.model.adapters import merge_adapters
from pipeline.model.config import ModelConfig
from pipeline.model.weights import named_weights
from pipeline.tasks.answer_metrics import answer_figures, score, score_all
from pipeline.tasks.hiding import hide_tokens
from pipeline.tasks.kinds import KINDS
from pipeline.tasks.question_answering import (
    Answerer,
    QuestionAnswerer,
    QuestionAnswering,
    Rules,
    draw_questions,
    find_answers,
    load_answerer,
    place_nats,
)
from pipeline.tasks.question_windows import AskedTexts, answer_tokens, best_span
from pipeline.tasks.trained import save_trained, segments_of
from pipeline.tokenization.tokenizer import Tokenizer
from pipeline.tokenization.training import train_bpe
from pipeline.training.adapting import adapt
from pipeline.training.optimizers import finetuning_optimizers
from tests.tasks.learning import learn

PEOPLE, PLACES = ["Anna", "Zoë Bell", "王小明"], ["Rome", "New York", "北京"]
FINETUNE = Finetune(epochs=2, batch_size=4, max_tokens=24, validation_texts=50, token_dropout=0.0, dropout=0.0)
FREE = Rules(max_answer_tokens=8, whole_words=False, unanswerable=True)
ANY = {"kind": "question_answering", "max_tokens": 24, "unspaced": False, **FREE._asdict()}


def make_rows(contexts_per_split: int = 6) -> pd.DataFrame:
    table = []
    for split in ("train", "validation", "test"):
        for number in range(contexts_per_split):
            person, place = PEOPLE[number % 3], PLACES[(number + 1) % 3]
            text = f"{number} words before it, then {person} went to {place} in {split}."
            asked = {"Who went?": person, "Where to?": place, "Why?": None}
            for question, answer in asked.items():
                answers = [Answer(text.index(answer), answer)] if answer else []
                name = f"{split}-{number}-{question}"
                table.append((name, text, question, answers_to_json(answers), split, "group"))
    return pd.DataFrame(table, columns=["id", "text", "pair", "answers", "split", "group"])


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return make_rows()


@pytest.fixture(scope="module")
def tokenizer(rows: pd.DataFrame) -> Tokenizer:
    return train_bpe([text * 5 for text in rows["text"]] + [question * 5 for question in rows["pair"]], 340)


def make_config(tokenizer: Tokenizer, family: str = "encoder", segments: int = 2) -> ModelConfig:
    sizes = (tokenizer.vocab_size, 16, 2, 2, 24, 32)
    return ModelConfig(*sizes, tied_embeddings=False, dropout=0.0, family=family, segments=segments)


def make_task(
    rows: pd.DataFrame, tokenizer: Tokenizer, family: str = "encoder", questions: int | None = None, **changes: Any
) -> QuestionAnswering:
    task = Task(kind="question_answering", path="qa.json", labels_per_class=questions)
    finetune = FINETUNE.model_copy(update=changes)
    return QuestionAnswering(rows, "qa.parquet", tokenizer, task, finetune, make_config(tokenizer, family), seed=1)


def random_model(config: ModelConfig, tokenizer: Tokenizer) -> QuestionAnswerer:
    torch.manual_seed(0)
    model = QuestionAnswerer(config, tokenizer.separator_id)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def ask(rows: pd.DataFrame, tokenizer: Tokenizer, max_tokens: int = 24, causal: bool = False) -> AskedTexts:
    return AskedTexts(rows["pair"].tolist(), rows["text"].tolist(), tokenizer, max_tokens, causal)


def first(rows: pd.DataFrame) -> list[Answer | None]:
    return [next(iter(answers_from_json(content)), None) for content in rows["answers"]]


def test_the_entry_of_the_kind_is_this_task(rows: pd.DataFrame, tokenizer: Tokenizer) -> None:
    task = make_task(rows, tokenizer)
    assert KINDS[task.config["kind"]].prepare is QuestionAnswering
    assert task.facts["train_texts"] == 18
    assert task.facts["train_texts_without_an_answer"] == 6
    assert task.facts["train_windows"] > 18
    assert task.facts["train_answers_that_no_tokens_are"] == 0
    assert task.facts["train_answers_that_no_window_holds"] == 0
    assert task.rules.whole_words
    assert task.rules.unanswerable
    longest = max(len(tokenizer.encode(" " + name)) for name in PEOPLE + PLACES)
    assert task.rules.max_answer_tokens in (longest, longest - 1)  # the space before may be a token of its own


@pytest.mark.parametrize("causal", [False, True])
def test_each_window_stands_behind_its_whole_question(rows: pd.DataFrame, tokenizer: Tokenizer, causal: bool) -> None:
    asked = ask(rows, tokenizer, causal=causal)
    seen: dict[int, set[int]] = {}
    for number, (question, *_) in enumerate(asked.windows):
        row, (own, places) = asked.row(number), asked.visible(number)
        head = [tokenizer.bos_id, *tokenizer.encode(rows["pair"][question]), tokenizer.sep_id]
        assert row[: len(head)] == head
        assert row[-1] == tokenizer.sep_id
        assert len(row) == asked.lengths[number] <= 24
        context = asked.contexts[question]
        assert np.array_equal(np.array(row)[places], np.array(context.ids)[context.places_V[own]])
        assert row[asked.no_answer_place(number)] == (tokenizer.sep_id if causal else tokenizer.bos_id)
        assert asked.no_answer_place(number) == (len(row) - 1 if causal else 0)
        seen.setdefault(question, set()).update(range(own.start, own.stop))
    assert seen == {number: set(range(len(text.places_V))) for number, text in enumerate(asked.contexts)}


def test_targets_are_the_answer_in_the_windows_that_have_it(rows: pd.DataFrame, tokenizer: Tokenizer) -> None:
    asked, truth = ask(rows, tokenizer), first(rows)
    for number, window in enumerate(asked.windows):
        answer = truth[window.question]
        tokens = answer_tokens(asked.contexts[window.question], answer) if answer else None
        start, end = asked.targets(number, tokens)
        if start == 0:
            assert end == 0
            assert tokens is None or not asked.has(number, tokens)
            continue
        assert answer is not None
        assert tokens is not None
        assert asked.answer(window.question, *tokens) == answer
        assert tokenizer.decode(asked.row(number)[start : end + 1]).strip() == answer.text


def test_a_question_keeps_half_of_the_row_and_the_cut_ones_are_counted(tokenizer: Tokenizer) -> None:
    asked = AskedTexts(["Who went? " * 50, "Who?"], ["Anna went", ""], tokenizer, 24, False)
    assert asked.questions_cut == 1
    assert len(asked.questions[0]) == 12
    assert asked.row(len(asked.windows) - 1)[-2:] == [tokenizer.sep_id] * 2  # nothing between


def test_the_loss_is_cross_entropy_among_the_allowed_places(rows: pd.DataFrame, tokenizer: Tokenizer) -> None:
    task, model = make_task(rows, tokenizer), random_model(make_config(tokenizer), tokenizer)
    [batch], _ = next(task.batches())
    logits = model(batch["input_ids"], batch["lengths"])
    for smoothing in (0.0, 0.1):
        found = place_nats(logits, batch, smoothing)
        for row, choices in enumerate(batch["choices"]):
            own = choices.nonzero().flatten().tolist()
            slow = [
                cross_entropy(
                    logits[row, choices, side], torch.tensor(own.index(int(target))), label_smoothing=smoothing
                )
                for side, target in enumerate((batch["starts"][row], batch["ends"][row]))
            ]
            torch.testing.assert_close(found[row], sum(slow) / 2)
    empty = {name: torch.cat([value, torch.zeros_like(value[:2])]) for name, value in batch.items()}
    empty["choices"][-2:, 0] = True
    filled = place_nats(model(empty["input_ids"], empty["lengths"]), empty, 0.1)
    torch.testing.assert_close(filled, torch.cat([place_nats(logits, batch, 0.1), torch.zeros(2)]))
    assert task.loss(model, empty)[1] == 4
    filled.sum().backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


def test_only_tokens_of_the_context_are_hidden() -> None:
    torch.manual_seed(0)
    ids, context = torch.arange(1, 2001)[None], torch.zeros(1, 2000, dtype=torch.bool)
    context[:, :1000] = True
    hidden = hide_tokens(ids, context, 0.25, hidden_id=0) == 0
    assert not hidden[:, 1000:].any()
    assert 200 < hidden.sum() < 300


def test_the_second_segment_begins_behind_the_first_separator() -> None:
    assert segments_of(torch.tensor([[1, 7, 3, 8, 3, 0], [1, 3, 9, 3, 0, 0]]), 3).tolist() == [
        [0, 0, 0, 1, 1, 1],
        [0, 0, 1, 1, 1, 1],
    ]


def test_segments_reach_a_network_that_has_them(rows: pd.DataFrame, tokenizer: Tokenizer) -> None:
    model = random_model(make_config(tokenizer), tokenizer)
    [batch], _ = next(make_task(rows, tokenizer).batches())
    ids, lengths = batch["input_ids"], batch["lengths"]
    before = model(ids, lengths)
    table = model.body.embedding.segments
    assert table is not None
    table.weight.data[1] = table.weight.data[0]
    assert (model(ids, lengths) - before).abs().max() > 1e-3


SCORES = st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 2.0]), min_size=1, max_size=9)


@settings(deadline=None)
@given(SCORES, SCORES, st.integers(1, 12))
def test_the_best_span_is_that_of_trying_all(starts: list[float], ends: list[float], longest: int) -> None:
    count = min(len(starts), len(ends))
    start_V, end_V = np.array(starts[:count]), np.array(ends[:count])
    pairs = [(i, j) for i in range(count) for j in range(i, min(i + longest, count))]
    sums = [start_V[i] + end_V[j] for i, j in pairs]
    found = best_span(start_V, end_V, longest)
    if max(sums) == -np.inf:
        assert found is None
    else:
        assert found == (max(sums), pairs[int(np.argmax(sums))])
    assert best_span(np.array([]), np.array([]), longest) is None


def test_the_answer_is_furthest_above_no_answer_of_its_own_window(tokenizer: Tokenizer) -> None:
    context = "Anna went to Rome and then to New York in train and then to Rome in validation"
    asked = AskedTexts(["Who went?", "Why?"], [context, ""], tokenizer, 24, False)
    windows = list(range(len(asked.windows)))
    assert len(windows) > 3
    logits = torch.full((len(windows), 24, 2), -5.0)
    logits[:, 0] = 1.0  # no answer here
    for window, (lead, base) in enumerate([(1.0, 50.0), (3.0, 0.0)]):
        logits[window] += base  # scores of windows have no common zero
        logits[window, asked.visible(window)[1][1]] = 1.0 + base + lead
    [found, nothing] = find_answers(asked, [(windows, logits)], FREE)
    own, _ = asked.visible(1)
    assert found.answer == asked.answer(0, own.start + 1, own.start + 1)
    places = torch.cat([torch.tensor([0]), torch.from_numpy(asked.visible(1)[1])])
    shares = logits[1, places].double().softmax(dim=0)
    assert found.score == pytest.approx(float(shares[2, 0] * shares[2, 1]))
    assert nothing == (None, 1.0)

    logits[1, asked.visible(1)[1][1]] = -0.5  # now none is above it
    logits[0, asked.visible(0)[1][1]] = 49.0
    [none, _] = find_answers(asked, [(windows, logits)], FREE)
    assert none.answer is None
    assert 0 < none.score < 1
    [lower, _] = find_answers(asked, [(windows, logits)], FREE._replace(threshold=-3.1))
    assert lower.answer == asked.answer(0, own.start + 1, own.start + 1)
    [higher, _] = find_answers(asked, [(windows, logits)], FREE._replace(threshold=-2.9))
    assert higher == none
    [forced, _] = find_answers(asked, [(windows, logits)], FREE._replace(unanswerable=False))
    assert forced.answer == asked.answer(0, own.start + 1, own.start + 1)


def load(model: QuestionAnswerer, task: dict[str, Any], tokenizer: Tokenizer, folder: Path) -> Answerer:
    save_trained(folder, model, task, "float32", tokenizer)
    return load_answerer(folder)


@pytest.mark.parametrize(("family", "segments"), [("encoder", 2), ("decoder", 0), ("encoder-decoder", 0)])
def test_answers_depend_on_question_and_context_alone_and_come_from_all_of_it(
    rows: pd.DataFrame, tokenizer: Tokenizer, tmp_path: Path, family: str, segments: int
) -> None:
    model = random_model(make_config(tokenizer, family, segments), tokenizer)
    answerer = load(model, ANY | {"unanswerable": False}, tokenizer, tmp_path / "m")
    texts = list(dict.fromkeys(rows["text"]))
    contexts = [" ".join(texts[place:] + texts[:place]) for place in range(6)] + texts[:3] + ["", "  "]
    questions = ["Who went?"] * len(contexts)
    found = answerer.predict(questions, contexts)
    assert [each.answer for each in found[-2:]] == [None, None]
    for (answer, score_), context in zip(found[:-2], contexts[:-2], strict=True):
        assert answer is not None
        assert context[answer.start : answer.end] == answer.text == answer.text.strip() != ""
        assert 0 < score_ < 1
    assert max(answer.start / len(text) for (answer, _), text in zip(found[:6], contexts, strict=False) if answer) > 0.3
    alone = [answerer.predict([question], [text])[0] for question, text in zip(questions, contexts, strict=True)]
    assert found == alone
    assert answerer.predict(questions, contexts[::-1]) == alone[::-1]
    other = answerer.predict(["Where to?"] * len(contexts), contexts)
    assert other != found


def test_no_answer_cuts_a_word_or_is_longer_than_the_longest(
    rows: pd.DataFrame, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = random_model(make_config(tokenizer), tokenizer)
    asked = rows["pair"].tolist(), rows["text"].tolist()
    cut = {}
    for whole in (True, False):
        task = ANY | {"whole_words": whole, "unanswerable": False, "max_answer_tokens": 3}
        found = load(model, task, tokenizer, tmp_path / str(whole)).predict(*asked)
        answers = [each.answer for each in found if each.answer]
        assert all(len(tokenizer.encode(answer.text)) <= 5 for answer in answers)
        edges = [
            text[place - 1 : place + 1]
            for each, text in zip(found, asked[1], strict=True)
            if each.answer
            for place in (each.answer.start, each.answer.end)
        ]
        cut[whole] = any(edge.isalnum() and edge.isascii() and len(edge) == 2 for edge in edges)
    assert cut == {True: False, False: True}


@pytest.mark.parametrize("family", ["encoder", "decoder"])
def test_measuring_agrees_with_the_trained_answerer(
    rows: pd.DataFrame, tokenizer: Tokenizer, tmp_path: Path, family: str
) -> None:
    task = make_task(rows, tokenizer, family)
    model = random_model(make_config(tokenizer, family), tokenizer)
    with torch.no_grad():
        found = task.measure(model, torch.device("cpu"))
    held_out = rows[rows["split"] == "validation"]
    answerer = load(model, task.config, tokenizer, tmp_path / "m")
    predicted = answerer.predict(held_out["pair"].tolist(), held_out["text"].tolist())
    slow = [
        score(each.answer.text if each.answer else "", [answer.text for answer in answers_from_json(content)])
        for each, content in zip(predicted, held_out["answers"], strict=True)
    ]
    assert [found["exact_match"], found["f1"], found["character_f1"]] == pytest.approx(np.mean(slow, axis=0).tolist())
    assert set(found) == {"loss", "exact_match", "f1", "character_f1"}


@torch.no_grad()
def test_the_threshold_is_that_of_trying_all_on_validation(
    rows: pd.DataFrame, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    task, cpu = make_task(rows, tokenizer), torch.device("cpu")
    model = random_model(make_config(tokenizer), tokenizer)
    tuned = task.tune(model, cpu)
    tried = {}
    for threshold in [0.0, *np.linspace(-8, 8, 65)]:
        task.config["threshold"] = threshold
        tried[threshold] = task.measure(model, cpu)["f1"]
    task.config |= tuned
    found = task.measure(model, cpu)["f1"]
    assert found >= max(tried.values()) > tried[0.0]
    held_out = rows[rows["split"] == "validation"]
    answerer = load(model, task.config, tokenizer, tmp_path / "m")
    predicted = answerer.predict(held_out["pair"].tolist(), held_out["text"].tolist())
    figures = answer_figures(score_all([each.answer for each in predicted], task.truth).sum(axis=0))
    assert figures["f1"] == pytest.approx(found)


@torch.no_grad()
@pytest.mark.parametrize(("split", "unanswerable"), [("train", False), ("validation", True)])
def test_nothing_is_tuned_without_questions_that_have_no_answer(
    rows: pd.DataFrame, tokenizer: Tokenizer, split: str, unanswerable: bool
) -> None:
    task = make_task(rows[(rows["answers"] != "[]") | (rows["split"] != split)], tokenizer)
    assert task.tune(random_model(make_config(tokenizer), tokenizer), torch.device("cpu")) == {}
    assert task.rules.threshold == 0.0
    assert task.rules.unanswerable is unanswerable


@pytest.mark.parametrize("family", ["encoder", "decoder"])
def test_it_learns_who_where_and_when_to_say_nothing(rows: pd.DataFrame, tokenizer: Tokenizer, family: str) -> None:
    task = make_task(rows, tokenizer, family, max_tokens=32, batch_size=9)
    model = learn(task, 100)
    with torch.no_grad():
        assert task.measure(model, torch.device("cpu"))["f1"] > 0.7


@pytest.mark.parametrize("way", [{"adapt": "head"}, {"adapt": "lora", "lora_rank": 2}, {"layer_rate_decay": 0.5}])
def test_every_way_of_adapting_learns_what_it_says(
    rows: pd.DataFrame, tokenizer: Tokenizer, tmp_path: Path, way: dict[str, Any]
) -> None:
    task = make_task(rows, tokenizer, **way)
    torch.manual_seed(0)
    model = task.model()
    adapt(model.body, task.settings)
    before = {name: value.clone() for name, value in named_weights(model).items()}
    optimizers = finetuning_optimizers(model.body, model.head, task.settings, lambda step: 1.0)
    for step in range(2):
        [batch], _ = next(task.batches())
        loss, count = task.loss(model, batch)
        (loss / count).backward()
        optimizers.step(step)
    changed = {
        name.split(".")[0] for name, value in named_weights(model).items() if not torch.equal(value, before[name])
    }
    assert changed == ({"head"} if way.get("adapt") == "head" else {"head", "body"})
    model.eval()
    with torch.no_grad():
        apart = model(batch["input_ids"], batch["lengths"])
        merge_adapters(model.body)
        answerer = load(model, task.config, tokenizer, tmp_path / "m")
        torch.testing.assert_close(answerer.model(batch["input_ids"], batch["lengths"]), apart, atol=1e-5, rtol=1e-5)


def test_a_draw_takes_so_many_questions_with_an_answer_and_as_many_without() -> None:
    train = make_rows(30).query("split == 'train'")
    few, short = draw_questions(train, 4, seed=1)
    more, _ = draw_questions(train, 8, seed=1)
    assert set(few["id"]) < set(more["id"])
    assert (few["answers"] == "[]").tolist().count(True) == 4
    assert len(few) == 8
    assert short == {}
    assert draw_questions(train, 40, seed=1)[1] == {"unanswerable": 30}
    assert list(draw_questions(train, None, seed=1)[0]) == list(train)


def test_training_follows_characters_where_answers_have_no_spaces(rows: pd.DataFrame, tokenizer: Tokenizer) -> None:
    assert make_task(rows, tokenizer).best_metric == "f1"
    chinese = rows[rows["answers"].str.contains(r"[\u4e00-\u9fff]") | (rows["split"] != "train")]
    task = make_task(chinese, tokenizer)
    assert task.best_metric == "character_f1"
    assert task.config["unspaced"]
    assert not task.rules.unanswerable


def test_what_cannot_be_learned_is_refused(rows: pd.DataFrame, tokenizer: Tokenizer) -> None:
    with pytest.raises(HallmarkError, match="no training question has an answer"):
        make_task(rows.assign(answers="[]"), tokenizer)
    for size in (8, 40):
        with pytest.raises(
            HallmarkError, match=r"finetune.max_tokens: a window of \d+ tokens: the model takes 16 to 32"
        ):
            make_task(rows, tokenizer, max_tokens=size)


def test_another_kinds_folder_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    task = {"kind": "classification", "labels": ["a", "b"], "max_tokens": 24, "pooling": "mean"}
    with pytest.raises(HallmarkError, match="task is 'classification', not 'question_answering'"):
        load(random_model(make_config(tokenizer), tokenizer), task, tokenizer, tmp_path / "m")
