"""The served model of any number of labels, as MLflow runs it from this file: no object is pickled.

A request is a list of texts, `{"inputs": ["...", "..."]}`. For each, the answer has its labels, perhaps none, and the
probability of every label: `{"predictions": [{"labels": ["b"], "probabilities": {"a": 0.2, "b": 0.8}}, ...]}`.
"""

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from pipeline.serving.answers import LabelsAnswer, answer_labels
from pipeline.serving.loading import load_packaged


class ServedMultiLabelClassifier(PythonModel):
    def load_context(self, context: PythonModelContext) -> None:
        from pipeline.tasks.multi_label_classification import load_multi_label_classifier

        self.classifier = load_packaged(context.artifacts["package"], load_multi_label_classifier)

    def predict(self, model_input: list[str]) -> list[LabelsAnswer]:  # pyrefly: ignore[bad-override] - MLflow reads these hints
        return answer_labels(self.classifier, model_input)


set_model(ServedMultiLabelClassifier())
