"""The settings of prompting."""

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator

from pipeline.common.section import Positive, Section

TEXT, PAIR, LABEL = "{text}", "{pair}", "{label}"
Method = Literal["random", "similarity", "diversity", "easy", "hard", "gradient"]


def is_template(written: str) -> bool:
    """Whether {text}, perhaps {pair}, and behind them {label} are in it, once each."""
    before, found, behind = written.partition(LABEL)
    once = before.count(TEXT) == 1 and before.count(PAIR) <= 1
    return bool(found) and once and not any(name in behind for name in (TEXT, PAIR, LABEL))


class Prompting(Section):
    """Asking the pretrained model for a task's labels in words, without training, with examples in the prompt."""

    template: str = Field(
        "{text}\nlabel: {label}\n\n",
        description="how a labelled text is written; with {text}, for pairs {pair} too, and behind them {label}",
    )
    label_words: dict[str, str] = Field(
        {}, description="how a label is written, by label; a label that is not named: as it is"
    )
    answer: Literal["likelihood", "generation"] = Field(
        "likelihood",
        description="likelihood: the label whose word the model finds likeliest; generation: the label that what it "
        "writes begins with",
    )
    calibration: Literal["contextual", "pmi", "none"] = Field(
        "contextual",
        description="what the labels are worth without a text is taken off (likelihood); contextual: behind the same "
        "examples and inputs without content; pmi: behind the template alone",
    )
    methods: Annotated[list[Method], Field(min_length=1)] = Field(
        list(get_args(Method)),
        description="how examples are chosen; similarity: near to the text; diversity: far from one another; easy, "
        "hard: by the model's loss of their labels; gradient: by influence on the loss on validation",
    )
    balanced: bool = Field(True, description="examples of all labels equally often, as far as their number allows")
    shots: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = Field(
        [0, 1, 2, 4], description="numbers of examples in the prompt"
    )
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = Field(
        [1, 2, 3, 4, 5], description="each draws its own texts to choose examples from, and decides their order"
    )
    orders: Positive = Field(1, description="orders of the examples that each seed tries")
    pool: Positive = Field(
        320, description="choose examples from at most this many of the texts that labels_per_class draws"
    )
    texts: Positive = Field(300, description="ask about at most this many texts of the test split, drawn by the seed")
    text_tokens: Positive | None = Field(
        None,
        description="longer texts are cut here, and counted; null: what the largest of shots leaves room for. Prompts "
        "that do not fit the context are refused",
    )

    @field_validator("template")
    @classmethod
    def _has_both(cls, value: str) -> str:
        if not is_template(value):
            raise ValueError("allowed: a text with {text} once, perhaps {pair} once, and behind them {label} once")
        return value

    @property
    def reads_pairs(self) -> bool:
        return PAIR in self.template

    @field_validator("methods", "shots", "seeds")
    @classmethod
    def _comes_once(cls, value: list[Any]) -> list[Any]:
        if len(set(value)) != len(value):
            raise ValueError("allowed: each value once")
        return value
