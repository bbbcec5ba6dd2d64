"""Texts and demonstrations to prompts, and prompts to labels.

Legend: N texts, F inputs without content, U distinct sets of demonstrations, C labels.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from pipeline.common.errors import HallmarkError
from pipeline.common.params import Prompting
from pipeline.model.generation.generator import Generator
from pipeline.model.generation.settings import GenerationSettings, end_ids
from pipeline.prompting.calibration import WITHOUT_CONTENT, contextual_prior, log_probabilities
from pipeline.prompting.influence import Example
from pipeline.prompting.scoring import MOST_ROWS, Scorer
from pipeline.prompting.templates import LabelWords, Template, cut_texts
from pipeline.tasks.rows import Text, texts_of
from pipeline.tokenization.tokenizer import Tokenizer

Answers = list[str | None]  # a label for each text, or None: what was written begins with none


@dataclass(frozen=True)
class Labelled:
    """Some of a task's rows, cut for the prompt.

    Attributes:
        ids, texts, labels: of each.
        cut: how many texts were cut.
        alone: token ids of each text by itself; of a pair, of both with what stands between them.
        examples: each text as a query without demonstrations, and the tokens of its label word.
    """

    ids: list[str]
    texts: list[Text]
    labels: list[str]
    cut: int
    alone: list[list[int]]
    examples: list[Example]


@dataclass(frozen=True)
class Prompts:
    """The prompts of one run.

    Attributes:
        texts: N prompts.
        sets: which distinct set of demonstrations each of them has, a number below U.
        without_content: U x F prompts, set by set, with inputs without content in place of the text; or none.
    """

    texts: list[list[int]]
    sets: list[int]
    without_content: list[list[int]]

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.texts
        yield from self.without_content

    @property
    def groups(self) -> list[int]:
        """The set of each prompt, in the order of iteration."""
        each = len(self.without_content) // (max(self.sets) + 1)
        return self.sets + [number // each for number in range(len(self.without_content))]


class Asker:
    """Asks one decoder for the labels of one task.

    Args:
        scorer: of the decoder.
        tokenizer: the model's own.
        template: how a labelled text is written.
        words: the labels.
        settings: of this task.
    """

    def __init__(
        self, scorer: Scorer, tokenizer: Tokenizer, template: Template, words: LabelWords, settings: Prompting
    ) -> None:
        self.scorer, self.tokenizer, self.template, self.words = scorer, tokenizer, template, words
        self.settings, self.context = settings, scorer.config.context_length
        self.generates = settings.answer == "generation"

    def prepare(self, rows: pd.DataFrame, text_tokens: int) -> Labelled:
        """Cut the texts to at most so many tokens, and write each as an example."""
        texts, cut = cut_texts(texts_of(rows), self.tokenizer, text_tokens)
        labels = rows["label"].tolist()
        answers = dict(zip(self.words.labels, self.words.ids, strict=True))
        queries = self._encode([self.template.query(text) for text in texts])
        examples = [(query, answers[label]) for query, label in zip(queries, labels, strict=True)]
        alone = self._encode([self.template.content(text) for text in texts])
        return Labelled(rows["id"].tolist(), texts, labels, cut, alone, examples)

    def write(self, texts: Sequence[Text], chosen: Sequence[Sequence[int]], pool: Labelled) -> Prompts:
        """The prompts of texts, each behind its own demonstrations, which are places in the pool."""
        begun = {
            places: "".join(self.template.demonstration(pool.texts[n], self._word(pool.labels[n])) for n in places)
            for places in map(tuple, chosen)
        }
        numbers = {places: number for number, places in enumerate(begun)}
        inputs = WITHOUT_CONTENT if self.settings.calibration == "contextual" and not self.generates else ()
        return Prompts(
            self._encode([begun[tuple(n)] + self.template.query(text) for n, text in zip(chosen, texts, strict=True)]),
            [numbers[tuple(places)] for places in chosen],
            self._encode([start + self.template.query(text) for start in begun.values() for text in inputs]),
        )

    def _word(self, label: str) -> str:
        return self.words.words[self.words.labels.index(label)]

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [[self.tokenizer.bos_id, *ids] for ids in self.tokenizer.encode_batch(list(texts))]

    def tokens_needed(self, prompt: Sequence[int]) -> int:
        """Of the prompt and the longest answer."""
        return len(prompt) + self.words.longest

    def too_long(self, prompts: Sequence[Sequence[int]]) -> int:
        """How many of the prompts do not fit the context together with the longest answer."""
        return sum(self.tokens_needed(prompt) > self.context for prompt in prompts)

    def answer(self, prompts: Prompts) -> tuple[Answers, Answers]:
        """The label of each text; and the same without calibration, which is free.

        Without calibration or with free generation both are the same. The first of equals.
        """
        if self.generates:
            found = self._generate(prompts.texts)
            return found, found
        scores = self.scorer.score(list(prompts), self.words.ids, prompts.groups)
        scores_NC, others = scores[: len(prompts.texts)], scores[len(prompts.texts) :]
        prior_NC = np.zeros((1, len(self.words.labels)))
        if self.settings.calibration == "contextual":
            scores_UFC = others.reshape(-1, len(WITHOUT_CONTENT), len(self.words.labels))
            prior_NC = contextual_prior(scores_UFC)[prompts.sets]
        elif self.settings.calibration == "pmi":
            prior_NC = self._template_alone
        return self._best(log_probabilities(scores_NC, prior_NC)), self._best(scores_NC)

    @cached_property
    def _template_alone(self) -> np.ndarray:
        return self.scorer.score(self._encode([self.template.query("")]), self.words.ids)

    def _best(self, scores_NC: np.ndarray) -> Answers:
        return [self.words.labels[place] for place in scores_NC.argmax(axis=1)]

    def _generate(self, prompts: Sequence[list[int]]) -> Answers:
        model = self.scorer.model
        settings = GenerationSettings(max_new_tokens=self.words.longest)
        generator, ends = Generator(model, compile="never"), end_ids(self.tokenizer, model.config.family)
        order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
        answers: Answers = [None] * len(prompts)
        for first in range(0, len(order), MOST_ROWS):
            some = order[first : first + MOST_ROWS]
            written = generator.generate([prompts[place] for place in some], settings, ends)
            for place, ids in zip(some, written, strict=True):
                answers[place] = self.words.read(self.tokenizer.decode(ids))
        return answers


def check_alone(asker: Asker, parts: Sequence[Labelled], text_tokens: int) -> None:
    """Refuse texts that do not fit the context even without demonstrations.

    Raises:
        HallmarkError: with their count and the longest.
    """
    prompts = [prompt for part in parts for prompt, _ in part.examples]
    if count := asker.too_long(prompts):
        raise HallmarkError(
            f"{count:,} of {len(prompts):,} texts do not fit the model's context of {asker.context} tokens even "
            f"without demonstrations; the longest needs {max(map(asker.tokens_needed, prompts)):,}",
            where=f"params.yaml: prompting, text_tokens {text_tokens}",
            fix="lower it, or set it to null",
        )
