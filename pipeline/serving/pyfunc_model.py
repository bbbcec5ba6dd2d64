"""The served model, as MLflow runs it from this file: no object is pickled.

A request is a list of texts, `{"inputs": ["...", "..."]}`. For each, the answer has the label and the probability of
every label: `{"predictions": [{"label": "b", "probabilities": {"a": 0.2, "b": 0.8}}, ...]}`.
"""

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from pipeline.serving.answers import LabelAnswer, answer_label
from pipeline.serving.loading import load_packaged


class ServedClassifier(PythonModel):
    def load_context(self, context: PythonModelContext) -> None:
        from pipeline.tasks.classification import load_classifier

        self.classifier = load_packaged(context.artifacts["package"], load_classifier)

    def predict(self, model_input: list[str]) -> list[LabelAnswer]:  # pyrefly: ignore[bad-override] - MLflow reads these hints
        return answer_label(self.classifier, model_input)


set_model(ServedClassifier())
