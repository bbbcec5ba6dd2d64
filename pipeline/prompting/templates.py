"""How a labelled text is written for a language model, and the label words that it is asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.common.errors import HallmarkError, Problems, allowed
from pipeline.tokenization.tokenizer import Tokenizer

TEXT, LABEL = "{text}", "{label}"


@dataclass(frozen=True)
class Template:
    """`before`{text}`between`{label}`after`. All other braces are text like any other."""

    before: str
    between: str
    after: str

    @classmethod
    def parse(cls, written: str) -> "Template":
        """Raises HallmarkError unless {text} and, behind it, {label} are there once each."""
        before, _, rest = written.partition(TEXT)
        between, found, after = rest.partition(LABEL)
        if not found or written.count(TEXT) + written.count(LABEL) != 2:
            raise HallmarkError(
                f"{written!r} is no template",
                where="params.yaml: prompting, template",
                fix=f"write {TEXT} once and behind it {LABEL} once",
            )
        return cls(before, between, after)

    def demonstration(self, text: str, word: str) -> str:
        return f"{self.before}{text}{self.between}{word}{self.after}"

    def query(self, text: str) -> str:
        """Up to where the label is due. Spaces before it belong to the label: most tokens begin with their space."""
        return f"{self.before}{text}{self._lead}"

    def answer(self, word: str) -> str:
        """What follows a query."""
        return self.between[len(self._lead) :] + word

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
        return self.between.rstrip(" ")


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


def cut_texts(texts: Sequence[str], tokenizer: Tokenizer, most: int) -> tuple[list[str], int]:
    """Each text, ended after at most `most` tokens and never inside a character; and how many were cut."""
    encoded = tokenizer.encode_with_offsets(list(texts))
    cut = [
        text if len(ids) <= most else _cut(text[: offsets[most - 1][1]], tokenizer, most)
        for text, (ids, offsets) in zip(texts, encoded, strict=True)
    ]
    return cut, sum(len(ids) > most for ids, _ in encoded)


def _cut(text: str, tokenizer: Tokenizer, most: int) -> str:
    """What was cut inside a word may have more tokens than before: then it loses more letters."""
    while len(tokenizer.encode(text)) > most:
        text = text[:-1]
    return text


def text_room(template: Template, words: LabelWords, tokenizer: Tokenizer, context: int, shots: int) -> int:
    """The tokens of text for which `shots` demonstrations and a query fit into the context.

    Raises:
        HallmarkError: there is no room for any.
    """
    one = template.demonstration("x", max(words.words, key=lambda word: len(tokenizer.encode(word))))
    beside = len(tokenizer.encode(one * 2)) - len(tokenizer.encode(one)) - len(tokenizer.encode("x"))
    room = (context - 1) // (shots + 1) - max(beside, 0)
    if room < 1:
        raise HallmarkError(
            f"{shots} demonstrations and a query leave no room for text in the model's context of {context} tokens: "
            f"the template and the longest label word are {beside} tokens each time",
            where="params.yaml: prompting, shots",
            fix="ask for fewer, or take a model with a longer context",
        )
    return room
