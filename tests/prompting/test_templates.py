"""Templates, label words and what texts are cut to."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.common.errors import HallmarkError
from pipeline.common.params import Prompting
from pipeline.prompting.templates import LabelWords, Template, cut_texts, text_room
from pipeline.tasks.encoding import cut_pair
from pipeline.tokenization.tokenizer import Tokenizer
from pipeline.tokenization.training import train_bpe
from tests.tasks.test_classification import WORDS

DEFAULT = Template.parse(Prompting().template)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_bpe([text * 20 + "\nlabel: cat\nlabel: dog\n\n" for text in WORDS.values()], 340)


def test_a_labelled_text_is_written_by_the_template() -> None:
    assert DEFAULT.demonstration("{label} is {text}", "good") == "{label} is {text}\nlabel: good\n\n"
    assert DEFAULT.query("{x}") == "{x}\nlabel:"
    assert DEFAULT.answer("good") == " good"
    review = Template.parse("Review: {text}\nIs it good?\n{label}.")
    assert review.query("Fine") + review.answer("yes") + "." == review.demonstration("Fine", "yes")


@pytest.mark.parametrize(
    "written",
    [
        "{text}",
        "{label}",
        "{label} {text}",
        "{text}{text}{label}",
        "{text}{label}{label}",
        "{pair}{label}",
        "{text}{pair}{pair}{label}",
        "{text}{label}{pair}",
    ],
)
def test_what_is_no_template_is_told(written: str) -> None:
    with pytest.raises(HallmarkError, match=r"write \{text\} once .* and behind it \{label\} once"):
        Template.parse(written)
    with pytest.raises(ValidationError, match="and behind them"):
        Prompting(template=written)


@settings(deadline=None)
@given(word=st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1))
def test_the_tokens_of_prompt_and_answer_are_those_of_the_whole(tokenizer: Tokenizer, word: str) -> None:
    query = DEFAULT.query("Some text")
    answer = DEFAULT.answer_ids(word, tokenizer)
    assert tokenizer.encode(query) + answer == tokenizer.encode(query + DEFAULT.answer(word))


def test_a_word_that_melts_into_what_stands_before_it_is_refused(tokenizer: Tokenizer) -> None:
    template = Template.parse("{text} pea{label}")
    assert len(tokenizer.encode(" pear")) == 1
    with pytest.raises(HallmarkError, match="has no tokens of its own behind ' pea'"):
        template.answer_ids("r", tokenizer)


def test_label_words_are_checked_together(tokenizer: Tokenizer) -> None:
    words = LabelWords.make(["0", "1"], {"1": "positive"}, DEFAULT, tokenizer)
    assert words.words == ["0", "positive"]
    assert words.longest == max(len(tokenizer.encode(" 0")), len(tokenizer.encode(" positive")))
    with pytest.raises(HallmarkError) as caught:
        LabelWords.make(["0", "1"], {"2": "two", "0": " "}, DEFAULT, tokenizer)
    assert "'2' is no label; allowed: 0, 1" in str(caught.value)
    assert "the label '0' has an empty word" in str(caught.value)
    with pytest.raises(HallmarkError, match="as has another one"):
        LabelWords.make(["0", "1"], {"1": "0"}, DEFAULT, tokenizer)


def test_the_longest_word_that_was_written_counts(tokenizer: Tokenizer) -> None:
    words = LabelWords.make(["py", "pytorch", "numpy"], {}, DEFAULT, tokenizer)
    assert [words.read(text) for text in (" pytorch\n", " pyt", "numpy, or", "\n scipy")] == [
        "pytorch",
        "py",
        "numpy",
        None,
    ]


@settings(deadline=None)
@given(texts=st.lists(st.text(max_size=30), max_size=4), most=st.integers(1, 12))
def test_texts_are_cut_to_at_most_so_many_tokens(tokenizer: Tokenizer, texts: list[str], most: int) -> None:
    cut, count = cut_texts(texts, tokenizer, most)
    assert count == sum(len(tokenizer.encode(text)) > most for text in texts)
    for text, kept in zip(texts, cut, strict=True):
        assert text.startswith(str(kept))
        assert len(tokenizer.encode(str(kept))) <= most
        assert kept == text or len(tokenizer.encode(text)) > most


@settings(deadline=None)
@given(pairs=st.lists(st.tuples(st.text(max_size=30), st.text(max_size=30)), max_size=4), most=st.integers(2, 12))
def test_of_a_pair_the_longer_text_is_cut(tokenizer: Tokenizer, pairs: list[tuple[str, str]], most: int) -> None:
    cut, count = cut_texts(pairs, tokenizer, most)
    sizes = [(len(tokenizer.encode(first)), len(tokenizer.encode(second))) for first, second in pairs]
    assert count == sum(sum(pair) > most for pair in sizes)
    for pair, kept, own in zip(pairs, cut, sizes, strict=True):
        assert all(text.startswith(begun) for text, begun in zip(pair, kept, strict=True))
        assert all(len(tokenizer.encode(b)) <= n for b, n in zip(kept, cut_pair(own[0], own[1], most), strict=True))
        assert kept == pair or sum(own) > most


def test_a_pair_stands_where_the_template_says() -> None:
    template = Template.parse("{pair} Because: {text}\nTrue? {label}\n")
    assert template.texts == 2
    assert template.demonstration(("{pair}", "b"), "yes") == "b Because: {pair}\nTrue? yes\n"
    assert template.query(("a", "b")) == "b Because: a\nTrue?"
    assert template.content(("a", "b")) == "b Because: a"
    assert template.query("N/A") == "N/A Because: N/A\nTrue?"
    assert (DEFAULT.texts, DEFAULT.content("a")) == (1, "a")


def test_the_room_for_text_is_what_the_context_leaves(tokenizer: Tokenizer) -> None:
    words = LabelWords.make(["cat", "dog"], {}, DEFAULT, tokenizer)
    room = text_room(DEFAULT, words, tokenizer, context=100, shots=3)
    [text], _ = cut_texts([" ".join(WORDS.values()) * 9], tokenizer, room)
    prompt = DEFAULT.demonstration(text, "cat") * 3 + DEFAULT.query(text)
    assert 85 < 1 + len(tokenizer.encode(prompt)) + words.longest <= 100
    with pytest.raises(HallmarkError, match="30 demonstrations and a query leave no room for text"):
        text_room(DEFAULT, words, tokenizer, context=100, shots=30)
    both = Template.parse("{text}; {pair}: {label}\n")
    words = LabelWords.make(["cat", "dog"], {}, both, tokenizer)
    long = " ".join(WORDS.values()) * 9
    [pair], _ = cut_texts([(long, long)], tokenizer, text_room(both, words, tokenizer, context=100, shots=3))
    prompt = both.demonstration(pair, "cat") * 3 + both.query(pair)
    assert 85 < 1 + len(tokenizer.encode(prompt)) + words.longest <= 100
