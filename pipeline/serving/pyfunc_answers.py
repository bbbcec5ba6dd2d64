"""The served model of answers, as MLflow runs it from this file: no object is pickled.

A request is a list of questions with their contexts, `{"inputs": [{"question": "...", "context": "..."}]}`. For each,
the answer is where the context holds it: `{"predictions": [{"answer": "Rome", "start": 9, "end": 13, "score": 0.9}]}`.
Offsets count characters. Where the context does not hold one, `answer` is "" and both offsets are null. For `score` see
`pipeline.tasks.question_answering.FoundAnswer`.
"""

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from pydantic import BaseModel

from pipeline.serving.loading import load_packaged


class Question(BaseModel):
    """What is asked about a text."""

    question: str
    context: str


class Reply(BaseModel):
    """`context[start:end]` is the answer."""

    answer: str
    score: float
    start: int | None = None
    end: int | None = None


class ServedAnswerer(PythonModel):
    def load_context(self, context: PythonModelContext) -> None:
        from pipeline.tasks.question_answering import load_answerer

        self.answerer = load_packaged(context.artifacts["package"], load_answerer)

    def predict(self, model_input: list[Question]) -> list[Reply]:  # pyrefly: ignore[bad-override] - MLflow reads these hints
        """Answer questions, each on its own: the order and number of questions change no answer."""
        asked = [each.question for each in model_input], [each.context for each in model_input]
        replies: list[Reply] = []
        for answer, score in self.answerer.predict(*asked):
            place = (answer.start, answer.end) if answer else (None, None)
            replies.append(Reply(answer=answer.text if answer else "", start=place[0], end=place[1], score=score))
        return replies


set_model(ServedAnswerer())
