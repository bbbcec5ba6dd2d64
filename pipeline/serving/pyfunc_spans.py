"""The served model of labelled spans, as MLflow runs it from this file: no object is pickled.

A request is a list of texts, `{"inputs": ["...", "..."]}`. For each, the answer has its spans in their order:
`{"predictions": [{"spans": [{"start": 0, "end": 4, "label": "x", "text": "Rome", "score": 0.9}]}, ...]}`. Offsets count
characters; `score` is the mean probability of the tags of a span's tokens.
"""

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from pydantic import BaseModel

from pipeline.serving.loading import load_packaged


class FoundSpan(BaseModel):
    """`text[start:end]` has this label."""

    start: int
    end: int
    label: str
    text: str
    score: float


class Answer(BaseModel):
    """What is said about one text."""

    spans: list[FoundSpan]


class ServedLabeller(PythonModel):
    def load_context(self, context: PythonModelContext) -> None:
        from pipeline.tasks.token_classification import load_token_labeller

        self.labeller = load_packaged(context.artifacts["package"], load_token_labeller)

    def predict(self, model_input: list[str]) -> list[Answer]:  # pyrefly: ignore[bad-override] - MLflow reads these hints
        """Find the spans of texts, each on its own: the order and number of texts change no answer."""
        answers: list[Answer] = []
        for text, found in zip(model_input, self.labeller.predict_scored(model_input), strict=True):
            spans = [
                FoundSpan(**each.span._asdict(), text=text[each.span.start : each.span.end], score=each.score)
                for each in found
            ]
            answers.append(Answer(spans=spans))
        return answers


set_model(ServedLabeller())
