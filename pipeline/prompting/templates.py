"""How a labelled text is written for a language model, and the label words that it is asked for."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.common.errors import HallmarkError, Problems, allowed
from pipeline.common.prompting import LABEL, PAIR, TEXT, is_template
from pipeline.tasks.encoding import cut_pair
from pipeline.tasks.rows import Text
from pipeline.tokenization.tokenizer import Tokenizer

PLACES = re.compile(r"(\{text\}|\{pair\})")


@dataclass(frozen=True)
class Template:
    """How a labelled text, or a pair of texts, is written. All other braces are text like any other.

    Attributes:
        parts: what stands before {label}; every second one is {text} or {pair}.
        after: what stands behind it.
    """

    parts: tuple[str, ...]
    after: str

    @classmethod
    def parse(cls, written: str) -> "Template":
        """Raises HallmarkError unless {text}, perhaps {pair}, and behind them {label} are there once each."""
        if not is_template(written):
            raise HallmarkError(
                f"{written!r} is no template",
                where="params.yaml: prompting, template",
                fix=f"write {TEXT} once ({PAIR} too, for pairs of texts) and behind it {LABEL} once",
            )
        before, _, after = written.partition(LABEL)
        return cls(tuple(PLACES.split(before)), after)

    @property
    def texts(self) -> int:
        """How many texts it holds: one, or two in a template of pairs."""
        return len(self.parts) // 2

    def demonstration(self, text: Text, word: str) -> str:
        return "".join([*self._written(text), word, self.after])

    def query(self, text: Text) -> str:
        """Up to where the label is due. Spaces before it belong to the label: most tokens begin with their space."""
        return "".join([*self._written(text)[:-1], self._lead])

    def content(self, text: Text) -> str:
        """The text alone; of a pair both, with what stands between them."""
        return "".join(self._written(text)[1:-1])

    def _written(self, text: Text) -> list[str]:
        """The parts, with the texts in their places; a single text takes the places of both."""
        first, second = (text, text) if isinstance(text, str) else text
        texts = {TEXT: first, PAIR: second}
        return [texts[part] if place % 2 else part for place, part in enumerate(self.parts)]

    def answer(self, word: str) -> str:
        """What follows a query."""
        return self.parts[-1][len(self._lead) :] + word

    def answer_ids(self, word: str, tokenizer: Tokenizer) -> list[int]:
        """The tokens of `answer` behind a query.

        Raises:
            HallmarkError: the word's first letters would become one token with what stands before them.
        """
        lead = tokenizer.encode(self._lead)
        whole = tokenizer.encode(self._lead + self.answer(word))
        if whole[: len(lead)] != lead or len(whole) == len(lead):
            raise HallmarkError(
                f"the label word {word!r} has no tokens of its own behind {self._lead!r}",
                where="params.yaml: prompting, template",
                fix=f"put a space or a line end before {LABEL}",
            )
        return whole[len(lead) :]

    @property
    def _lead(self) -> str:
        return self.parts[-1].rstrip(" ")


@dataclass(frozen=True)
class LabelWords:
    """The labels of a task, how each is written, and the tokens of that behind a query."""

    labels: list[str]
    words: list[str]
    ids: list[list[int]]

    @classmethod
    def make(
        cls, labels: Sequence[str], written: Mapping[str, str], template: Template, tokenizer: Tokenizer
    ) -> "LabelWords":
        """
        Args:
            labels: of the task.
            written: words by label; a label that is not named is its own word.

        Raises:
            HallmarkError: a name that is no label, an empty word, or one word for two labels; all at once.
        """
        problems = Problems("params.yaml: prompting, label_words")
        for name in written:
            if name not in labels:
                problems.add(f"{name!r} is no label; {allowed(labels)}")
        words = [written.get(label, label) for label in labels]
        for label, word in zip(labels, words, strict=True):
            if not word.strip():
                problems.add(f"the label {label!r} has an empty word")
            elif words.count(word) > 1:
                problems.add(f"the label {label!r} has the word {word!r}, as has another one")
        problems.raise_if_any(fix="give each label its own word")
        return cls(list(labels), words, [template.answer_ids(word, tokenizer) for word in words])

    @property
    def longest(self) -> int:
        """Tokens of the longest answer."""
        return max(map(len, self.ids))

    def read(self, generated: str) -> str | None:
        """The label whose word the generated text begins with, the longest such word; None: it begins with none."""
        found = [
            (len(word), label)
            for label, word in zip(self.labels, self.words, strict=True)
            if generated.lstrip().startswith(word)
        ]
        return max(found)[1] if found else None


def cut_texts(texts: Sequence[Text], tokenizer: Tokenizer, most: int) -> tuple[list[Text], int]:
    """Each text, ended after at most `most` tokens and never inside a character; and how many were cut.

    The texts of a pair have so many together; see `pipeline.tasks.encoding.cut_pair`.
    """
    parted = [(text,) if isinstance(text, str) else text for text in texts]
    encoded = iter(tokenizer.encode_with_offsets([part for parts in parted for part in parts]))
    cut: list[Text] = []
    count = 0
    for parts in parted:
        found = [next(encoded) for _ in parts]
        sizes = [len(ids) for ids, _ in found]
        kept = cut_pair(sizes[0], sizes[1], most) if len(sizes) == 2 else (min(sizes[0], most),)
        first, *second = (
            part if size <= room else _cut(part, offsets, room, tokenizer)
            for part, size, (_, offsets), room in zip(parts, sizes, found, kept, strict=True)
        )
        cut.append((first, second[0]) if second else first)
        count += sum(sizes) > most
    return cut, count


def _cut(text: str, offsets: Sequence[tuple[int, int]], most: int, tokenizer: Tokenizer) -> str:
    """What was cut inside a word may have more tokens than before: then it loses more letters."""
    text = text[: offsets[most - 1][1]] if most else ""
    while len(tokenizer.encode(text)) > most:
        text = text[:-1]
    return text


def text_room(template: Template, words: LabelWords, tokenizer: Tokenizer, context: int, shots: int) -> int:
    """The tokens of text for which `shots` demonstrations and a query fit into the context.

    Raises:
        HallmarkError: there is no room for any.
    """
    one = template.demonstration("x", max(words.words, key=lambda word: len(tokenizer.encode(word))))
    content = template.texts * len(tokenizer.encode("x"))
    beside = len(tokenizer.encode(one * 2)) - len(tokenizer.encode(one)) - content
    room = (context - 1) // (shots + 1) - max(beside, 0)
    if room < template.texts:
        raise HallmarkError(
            f"{shots} demonstrations and a query leave no room for text in the model's context of {context} tokens: "
            f"the template and the longest label word are {beside} tokens each time",
            where="params.yaml: prompting, shots",
            fix="ask for fewer, or take a model with a longer context",
        )
    return room
