"""The page of each kind of task."""

from pipeline.evaluation.report.answer_page import ANSWER_PAGE
from pipeline.evaluation.report.class_page import CLASS_PAGE
from pipeline.evaluation.report.dialogue_page import DIALOGUE_PAGE
from pipeline.evaluation.report.findings import KindPage
from pipeline.evaluation.report.label_set_page import LABEL_SET_PAGE
from pipeline.evaluation.report.span_page import SPAN_PAGE
from pipeline.evaluation.report.text_page import TEXT_PAGE

PAGES: dict[str, KindPage] = {
    "classification": CLASS_PAGE,
    "multi_label_classification": LABEL_SET_PAGE,
    "token_classification": SPAN_PAGE,
    "question_answering": ANSWER_PAGE,
    "sequence_to_sequence": TEXT_PAGE,
    "dialogue": DIALOGUE_PAGE,
}
