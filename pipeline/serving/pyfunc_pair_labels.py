"""The served model of any number of labels for pairs of texts, as MLflow runs it from this file: no object is pickled.

A request is a list of pairs of texts, `{"inputs": [{"text": "...", "pair": "..."}, ...]}`. For each, the answer has
its labels, perhaps none, and the probability of every label: `{"predictions": [{"labels": ["b"], "probabilities":
{"a": 0.2, "b": 0.8}}, ...]}`.
"""

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from pipeline.serving.answers import LabelsAnswer, TextPair, answer_labels, as_tuples
from pipeline.serving.loading import load_packaged


class ServedPairMultiLabelClassifier(PythonModel):
    def load_context(self, context: PythonModelContext) -> None:
        from pipeline.tasks.multi_label_classification import load_multi_label_classifier

        self.classifier = load_packaged(context.artifacts["package"], load_multi_label_classifier)

    def predict(self, model_input: list[TextPair]) -> list[LabelsAnswer]:  # pyrefly: ignore[bad-override] - MLflow reads these hints
        return answer_labels(self.classifier, as_tuples(model_input))


set_model(ServedPairMultiLabelClassifier())
