"""The served model of pairs of texts, as MLflow runs it from this file: no object is pickled.

A request is a list of pairs of texts, `{"inputs": [{"text": "...", "pair": "..."}, ...]}`. For each, the answer has
the label and the probability of every label: `{"predictions": [{"label": "b", "probabilities": {"a": 0.2, "b": 0.8}},
...]}`.
"""

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from pipeline.serving.answers import LabelAnswer, TextPair, answer_label, as_tuples
from pipeline.serving.loading import load_packaged


class ServedPairClassifier(PythonModel):
    def load_context(self, context: PythonModelContext) -> None:
        from pipeline.tasks.classification import load_classifier

        self.classifier = load_packaged(context.artifacts["package"], load_classifier)

    def predict(self, model_input: list[TextPair]) -> list[LabelAnswer]:  # pyrefly: ignore[bad-override] - MLflow reads these hints
        return answer_label(self.classifier, as_tuples(model_input))


set_model(ServedPairClassifier())
