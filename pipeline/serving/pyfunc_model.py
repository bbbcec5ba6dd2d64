"""The served model, as MLflow runs it from this file: no object is pickled.

A request is a list of texts, `{"inputs": ["...", "..."]}`. For each, the answer has the label and the probability of
every label: `{"predictions": [{"label": "b", "probabilities": {"a": 0.2, "b": 0.8}}, ...]}`.
"""

import os

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext
from pydantic import BaseModel


class Answer(BaseModel):
    """What is said about one text."""

    label: str
    probabilities: dict[str, float]


class ServedClassifier(PythonModel):
    def load_context(self, context: PythonModelContext) -> None:
        """Load the package, on the device that HALLMARK_DEVICE names; without it on a GPU if there is one."""
        import torch

        from pipeline.serving.package import read_package
        from pipeline.tasks.classification import load_classifier

        device = os.environ.get("HALLMARK_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
        self.classifier = load_classifier(read_package(context.artifacts["package"]).folder, device)

    def predict(self, model_input: list[str]) -> list[Answer]:  # pyrefly: ignore[bad-override] - MLflow reads these hints
        """Classify texts, each on its own: the order and number of texts change no answer."""
        labels = self.classifier.labels
        answers: list[Answer] = []
        for row in self.classifier.predict_probabilities(model_input):
            probabilities = {label: float(value) for label, value in zip(labels, row, strict=True)}
            answers.append(Answer(label=labels[int(row.argmax())], probabilities=probabilities))
        return answers


set_model(ServedClassifier())
