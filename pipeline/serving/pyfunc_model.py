"""The served model, as MLflow runs it from this file: no object is pickled.

A request is a list of texts, `{"inputs": ["...", "..."]}`. For each, the answer has the label and the probability of
every label: `{"predictions": [{"label": "b", "probabilities": {"a": 0.2, "b": 0.8}}, ...]}`.
"""

from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext


class ServedClassifier(PythonModel):
    def load_context(self, context: PythonModelContext) -> None:
        from pipeline.serving.package import read_package
        from pipeline.tasks.classification import load_classifier

        package = read_package(context.artifacts["package"])
        self.classifier = load_classifier(package.folder)

    def predict(self, model_input: list[str], params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Classify texts, each on its own: the order and number of texts change no answer."""
        labels = self.classifier.labels
        answers: list[dict[str, Any]] = []
        for row in self.classifier.predict_probabilities(list(model_input)):
            answers.append(
                {
                    "label": labels[int(row.argmax())],
                    "probabilities": {label: float(value) for label, value in zip(labels, row, strict=True)},
                }
            )
        return answers


set_model(ServedClassifier())
