"""The served model that writes texts, as MLflow runs it from this file: no object is pickled.

A request is a list of texts, `{"inputs": ["...", "..."]}`. For each, the answer has the text that is written for it:
`{"predictions": [{"text": "..."}, ...]}`.
"""

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from pydantic import BaseModel

from pipeline.serving.loading import load_packaged


class Answer(BaseModel):
    """What is written for one text."""

    text: str


class ServedWriter(PythonModel):
    def load_context(self, context: PythonModelContext) -> None:
        from pipeline.tasks.text_writer import load_writer

        self.writer = load_packaged(context.artifacts["package"], load_writer)

    def predict(self, model_input: list[str]) -> list[Answer]:  # pyrefly: ignore[bad-override] - MLflow reads these hints
        """Write for texts, each on its own: the order and number of texts change no answer."""
        return [Answer(text=text) for text in self.writer.predict(model_input)]


set_model(ServedWriter())
