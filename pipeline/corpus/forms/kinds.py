"""The form of the rows of each kind of task."""

from pipeline.corpus.forms.answers import ANSWERS
from pipeline.corpus.forms.dialogues import DIALOGUES
from pipeline.corpus.forms.form import Form
from pipeline.corpus.forms.label_sets import LABEL_SETS
from pipeline.corpus.forms.labelled_spans import SPANS
from pipeline.corpus.forms.labels import LABELS
from pipeline.corpus.forms.texts import TEXTS

FORMS: dict[str, Form] = {
    "classification": LABELS,
    "multi_label_classification": LABEL_SETS,
    "token_classification": SPANS,
    "question_answering": ANSWERS,
    "sequence_to_sequence": TEXTS,
    "dialogue": DIALOGUES,
}


def form_of(columns: list[str]) -> Form:
    """The form of a table with these columns; `LABELS` where no form's target is among them."""
    return next((form for form in FORMS.values() if form.target in columns), LABELS)
