"""Dialogues: what is learned, rows that leak nothing, what is cut and counted, and the trained model that answers."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.common.dialogues import ASSISTANT, SYSTEM, USER, Message, messages_to_json, transcript
from pipeline.common.errors import HallmarkError
from pipeline.common.params import Finetune, Task
from pipeline.model.config import ModelConfig
from pipeline.tasks.assistant import Assistant, DialogueModel, Row, fit_dialogues, load_assistant
from pipeline.tasks.dialogue import Dialogue, PackedDialogues, dialogue_loss, longest_answer
from pipeline.tasks.kinds import KINDS
from pipeline.tasks.rows import draw_rows
from pipeline.tasks.trained import save_trained
from pipeline.tokenization.chat import ChatTemplate
from pipeline.tokenization.tokenizer import Tokenizer
from pipeline.tokenization.training import train_bpe
from pipeline.training.masking import NO_TARGET
from tests.tasks.learning import learn

COLOURS = {"grass": "green", "the sky": "blue", "snow": "white", "coal": "black"}
FINETUNE = Finetune(epochs=2, batch_size=4, max_tokens=56, validation_texts=50)


def dialogue(number: int, turns: int = 1) -> list[Message]:
    messages = [Message(SYSTEM, "Be brief.")] if number % 2 else []
    for turn in range(turns):
        thing = list(COLOURS)[(number + turn) % 4]
        messages += [Message(USER, f"{number}. What is {thing}?"), Message(ASSISTANT, f"It is {COLOURS[thing]}.")]
    return messages


def make_rows(each: int = 8) -> pd.DataFrame:
    table = []
    for split in ("train", "validation", "test"):
        for number in range(each):
            messages = dialogue(number, 1 + number % 2)
            table.append((f"{split}-{number}", transcript(messages), messages_to_json(messages), split, "group"))
    return pd.DataFrame(table, columns=["id", "text", "messages", "split", "group"])


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe([text * 5 for text in make_rows()["text"]], 330)


def make_config(tokenizer: Tokenizer, **changes: Any) -> ModelConfig:
    return ModelConfig(tokenizer.vocab_size, 16, 2, 2, 24, 64, tied_embeddings=False, dropout=0.0, **changes)


def make_task(tokenizer: Tokenizer, rows: pd.DataFrame | None = None, config: Any = None, **changes: Any) -> Dialogue:
    task = Task(kind="dialogue", path="chat.jsonl", labels_per_class=None)
    settings = FINETUNE.model_copy(update=changes)
    rows = make_rows() if rows is None else rows
    return Dialogue(rows, "chat.parquet", tokenizer, task, settings, config or make_config(tokenizer), seed=1)


def random_model(config: ModelConfig) -> DialogueModel:
    torch.manual_seed(0)
    model = DialogueModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def fitted_rows(tokenizer: Tokenizer, dialogues: list[list[Message]], max_tokens: int = 56) -> list[Row]:
    return fit_dialogues(ChatTemplate(tokenizer), dialogues, max_tokens).kept


def test_the_entry_of_the_kind_is_this_task(tokenizer: Tokenizer) -> None:
    task = make_task(tokenizer)
    assert KINDS[task.config["kind"]].prepare is Dialogue
    assert task.facts["train_texts"] == 8
    assert task.facts["train_texts_cut"] == task.facts["train_texts_too_long"] == 0
    assert task.facts["packed_rows"] < 8
    assert task.config["answer_tokens"] == task.facts["answer_tokens"] < 24


def test_only_answers_and_their_ends_are_learned(tokenizer: Tokenizer) -> None:
    messages = dialogue(1, turns=2)
    [row] = fitted_rows(tokenizer, [[*messages, Message(USER, "And then?")]])  # nobody answers this: it is left out
    said = np.array(row.ids)[row.is_said].tolist()
    eos = tokenizer.require("eos")
    answers = [[*tokenizer.encode(message.content), eos] for message in messages if message.role == ASSISTANT]
    assert said == [place for answer in answers for place in answer]
    assert longest_answer(row) == max(map(len, answers))
    assert row.ids[0] == tokenizer.bos_id
    assert row.ids.count(eos) == len(messages)
    assert tokenizer.decode(row.ids) == "".join(message.role + message.content for message in messages)


def test_a_packed_dialogue_has_the_loss_and_the_states_that_it_has_alone(tokenizer: Tokenizer) -> None:
    model = random_model(make_config(tokenizer))
    rows = fitted_rows(tokenizer, [dialogue(number, 1 + number % 2) for number in range(5)])
    packed = PackedDialogues(rows, 56, tokenizer.pad_id)
    assert any(len(members) > 1 for members in packed.members)
    names = list(map(str, range(5)))
    [(_, batch)] = packed.batches(len(packed.members) + 1, 1, names).one_pass()  # and a row that holds nothing
    together, count = dialogue_loss(model, batch)
    alone = [dialogue_loss(model, alone_batch(row)) for row in rows]
    torch.testing.assert_close(together, torch.stack([nats for nats, _ in alone]).sum())
    assert count == sum(each for _, each in alone) == sum(sum(row.is_said) for row in rows)
    states = model.body.hidden_states(batch["input_ids"], documents_BT=batch["documents"])
    for place, members in enumerate(packed.members):
        first = 0
        for number in members:
            ids = rows[number].ids[:-1]
            own = model.body.hidden_states(torch.tensor([ids]))[0]
            torch.testing.assert_close(states[place, first : first + len(ids)], own)
            first += len(ids)


def alone_batch(row: Row) -> dict[str, torch.Tensor]:
    ids, is_said = torch.tensor([row.ids]), torch.tensor([row.is_said])
    return {"input_ids": ids[:, :-1], "labels": ids[:, 1:].masked_fill(~is_said[:, 1:], NO_TARGET)}


def test_the_loss_is_minus_the_log_probability_of_each_answer_token(tokenizer: Tokenizer) -> None:
    model = random_model(make_config(tokenizer))
    [row] = fitted_rows(tokenizer, [dialogue(1, 2)])
    slow = 0.0
    for place in range(1, len(row.ids)):
        logits = model.body(torch.tensor([row.ids[:place]]))[0, -1]
        slow -= logits.log_softmax(0)[row.ids[place]].item() * row.is_said[place]
    nats, _ = dialogue_loss(model, alone_batch(row))
    assert nats.item() == pytest.approx(slow, rel=1e-4)
    assistant = Assistant(model, tokenizer, {"max_tokens": 56, "precision": "float32", "answer_tokens": 8})
    scored = assistant.predict_tokens([row])[0]
    assert scored[0] == pytest.approx(slow, rel=1e-4)
    assert scored[1] == sum(row.is_said)
    assert scored[4] == sum(len(m.content.encode()) for m in dialogue(1, 2) if m.role == ASSISTANT)
    assert 0 < scored[3] < scored[0]  # the ends of the turns stand for no text


def test_too_long_dialogues_lose_their_first_turns_and_too_long_last_turns_are_counted(tokenizer: Tokenizer) -> None:
    long = dialogue(1, turns=12)
    fitted = fit_dialogues(ChatTemplate(tokenizer), [long, dialogue(2), [Message(ASSISTANT, "so " * 90)]], 48)
    assert (fitted.cut, fitted.too_long, len(fitted.kept)) == (1, 1, 2)
    row = fitted.kept[0]
    assert len(row.ids) <= 48
    text = tokenizer.decode(row.ids)
    assert text.startswith("systemBe brief.user1. What is")
    assert text.endswith(long[-1].content)
    turns = text.count("What is")
    [longer] = fitted_rows(tokenizer, [[long[0], *long[-2 * (turns + 1) :]]], 500)
    assert len(longer.ids) > 48  # one more turn does not fit


def test_every_dialogue_comes_once_an_epoch_and_a_stopped_training_goes_on_alike(tokenizer: Tokenizer) -> None:
    task, again = make_task(tokenizer, batch_size=1), make_task(tokenizer, batch_size=1)
    learned, state = 0, None
    for _ in range(task.batches().steps_per_epoch):
        [batch], state = next(task.batches())
        learned += int((batch["labels"] != NO_TARGET).sum())
        assert batch["input_ids"].shape == (1, 56)
    assert learned == task.facts["train_answer_tokens"]
    assert state is not None
    again.batches().load_state(state)
    (one,), (other,) = next(task.batches())[0], next(again.batches())[0]
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert task.batches().origin(None).startswith("the rows train-")


def test_it_learns_to_answer_and_to_stop(tokenizer: Tokenizer, tmp_path: Path) -> None:
    task = make_task(tokenizer)
    model = learn(task, 150)
    with torch.no_grad():
        figures = task.measure(model, torch.device("cpu"))
    assert figures["token_accuracy"] > 0.9
    assert figures["perplexity"] == pytest.approx(np.exp(figures["loss"]))
    save_trained(tmp_path / "m", model, task.config, "float32", tokenizer)
    assistant = load_assistant(tmp_path / "m")
    held_out = [dialogue(number, 1 + number % 2) for number in range(8)]
    found = assistant.predict_tokens(fitted_rows(tokenizer, held_out)).sum(axis=0)
    assert found[2] / found[1] == pytest.approx(figures["token_accuracy"])
    assert found[0] / found[1] == pytest.approx(figures["loss"], rel=1e-4)
    asked = [messages[:-1] for messages in held_out]
    answers = assistant.answer(asked)
    right = sum(said == messages[-1].content for said, messages in zip(answers, held_out, strict=True))
    assert right >= 6
    assert assistant.answer(asked[::-1]) == answers[::-1]


def test_the_trained_model_refuses_what_it_cannot_read(tokenizer: Tokenizer, tmp_path: Path) -> None:
    task = make_task(tokenizer)
    save_trained(tmp_path / "m", random_model(make_config(tokenizer)), task.config, "float32", tokenizer)
    assistant = load_assistant(tmp_path / "m")
    with pytest.raises(HallmarkError, match="the last turn is longer than"):
        assistant.answer([[Message(USER, "long " * 100)]])
    assert assistant.answer([[*dialogue(1, 20), Message(USER, "And?")]])  # its first turns are not read
    with pytest.raises(HallmarkError, match="there is no role 'human'; allowed: system, user, assistant"):
        assistant.answer([[Message("human", "Hello")]])
    other = task.config | {"chat_template": "{{ messages }}"}
    save_trained(tmp_path / "m", random_model(make_config(tokenizer)), other, "float32", tokenizer)
    with pytest.raises(HallmarkError, match="has learned another chat template"):
        load_assistant(tmp_path / "m")


def test_settings_that_cannot_be_are_one_message(tokenizer: Tokenizer) -> None:
    with pytest.raises(HallmarkError) as caught:
        make_task(tokenizer, config=make_config(tokenizer, family="encoder"), adapt="head", max_tokens=65)
    assert "3 problems" in str(caught.value)
    for part in ("learned by a decoder, and this is an encoder", "no new head to learn", "takes 8 to 64"):
        assert part in str(caught.value)
    with pytest.raises(HallmarkError, match="not one of 8 dialogues of train has a last turn within 8 tokens"):
        make_task(tokenizer, max_tokens=8)


def test_a_larger_draw_contains_a_smaller_one() -> None:
    train = make_rows(12).query("split == 'train'")
    few, more = (set(draw_rows(train, count, seed=1)["id"]) for count in (3, 6))
    assert few < more
    assert (len(few), len(draw_rows(train, None, seed=1))) == (3, 12)
