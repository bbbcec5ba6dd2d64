"""The served model of dialogues, as MLflow runs it from this file: no object is pickled.

A request is a list of dialogues, `{"inputs": [{"messages": [{"role": "user", "content": "Hello"}]}]}`, each answered by
the assistant's next message: `{"predictions": [{"role": "assistant", "content": "Hi!"}]}`.
"""

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from pydantic import BaseModel

from pipeline.serving.loading import load_packaged


class Said(BaseModel):
    """What one side says."""

    role: str
    content: str


class Asked(BaseModel):
    """A dialogue that waits for an answer. Of one that is too long, the first turns are not read."""

    messages: list[Said]


class ServedAssistant(PythonModel):
    def load_context(self, context: PythonModelContext) -> None:
        from pipeline.tasks.assistant import load_assistant

        self.assistant = load_packaged(context.artifacts["package"], load_assistant)

    def predict(self, model_input: list[Asked]) -> list[Said]:  # pyrefly: ignore[bad-override] - MLflow reads these hints
        """Answer dialogues, each by itself: the order and number of them change no answer."""
        from pipeline.common.dialogues import ASSISTANT, Message

        dialogues = [[Message(said.role, said.content) for said in asked.messages] for asked in model_input]
        return [Said(role=ASSISTANT, content=content) for content in self.assistant.answer(dialogues)]


set_model(ServedAssistant())
