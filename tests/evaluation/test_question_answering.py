"""Answers measured beside their baselines: figures, intervals over contexts, the words nearby, and the page."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.common.answers import Answer, answers_from_json, answers_to_json
from pipeline.common.params import Evaluate, Task
from pipeline.evaluation.evaluation import Evaluation
from pipeline.evaluation.kinds import EVALUATIONS
from pipeline.evaluation.nearby_words import answer_by_nearby_words
from pipeline.evaluation.question_answering import evaluate_question_answering
from pipeline.evaluation.report.answer_page import QUESTION_ANSWERING, answer_findings
from pipeline.evaluation.report.findings import bars, result_rows, verdicts
from pipeline.tasks.answer_metrics import answer_figures, score_all
from pipeline.tasks.question_answering import FoundAnswer, Rules

ROME, OSLO = "Anna lives in Rome.", "Omar went to Oslo, in May."
TEST = [  # context, question, true answers, what the model says, what the scratch arm says
    (ROME, "Where does Anna live?", [(14, "Rome")], (14, "Rome"), (0, "Anna")),
    (ROME, "Who lives in Rome?", [(0, "Anna")], (0, "Anna lives"), (0, "Anna")),
    (ROME, "Who lives in Lima?", [], None, (0, "Anna")),
    (OSLO, "Where did Omar go?", [(13, "Oslo"), (13, "Oslo, in May")], (13, "Oslo, in"), None),
    (OSLO, "Why?", [], (19, "in May"), None),
]


class Says:
    """Stands in for a trained model: what it says is given."""

    rules = Rules(max_answer_tokens=9, whole_words=True, unanswerable=True, threshold=0.25)

    def __init__(self, answers: list[tuple[int, str] | None], unspaced: bool = False) -> None:
        self.found = [FoundAnswer(Answer(*each) if each else None, 0.5 + 0.1 * n) for n, each in enumerate(answers)]
        self.unspaced = unspaced

    def predict(self, questions: list[str], contexts: list[str]) -> list[FoundAnswer]:
        assert len(questions) == len(contexts) == len(self.found)
        return self.found


def make_rows(test: list[Any] = TEST) -> pd.DataFrame:
    learned = [("t0", "Ida lives in Lima.", "Where does Ida live?", answers((13, "Lima")), "train", "f")]
    learned += [("t1", "Kofi went to Accra.", "Why?", "[]", "train", "f")]
    tested = [
        (f"q{number}", context, question, answers(*true), "test", "f")
        for number, (context, question, true, *_) in enumerate(test)
    ]
    return pd.DataFrame(learned + tested, columns=["id", "text", "pair", "answers", "split", "group"])


def answers(*found: tuple[int, str]) -> str:
    return answers_to_json([Answer(*each) for each in found])


def evaluate(test: list[Any] = TEST, unspaced: bool = False, **settings: Any) -> Evaluation:
    model: Any = Says([row[3] for row in test], unspaced)
    scratch: Any = Says([row[4] for row in test])
    task = Task(kind="question_answering", path="qa.json", labels_per_class=None)
    return evaluate_question_answering(
        make_rows(test), "qa.parquet", model, scratch, task=task, settings=Evaluate(**settings), seed=3
    )


def test_figures_of_the_model_and_its_baselines() -> None:
    found = evaluate(bootstrap_samples=200).metrics
    f1 = [1, 2 / 3, 1, 4 / 5, 0]  # against "Oslo, in May": two of two words, two of three
    assert found["f1"]["value"] == pytest.approx(sum(f1) / 5)
    assert found["exact_match"]["value"] == pytest.approx(2 / 5)
    assert "character_f1" not in found
    assert set(found["baselines"]) == {"scratch", "nearby_words", "no_answer"}
    assert found["baselines"]["no_answer"]["f1"]["value"] == pytest.approx(2 / 5)
    assert found["baselines"]["no_answer"]["lead_f1"]["value"] == pytest.approx((sum(f1) - 2) / 5)
    assert found["baselines"]["scratch"]["exact_match"]["value"] == pytest.approx(2 / 5)
    assert found["answerable"] == pytest.approx(
        {
            "exact_match": 1 / 3,
            "f1": sum(f1[:2] + f1[3:4]) / 3,
            "character_f1": sum(f1[:2] + f1[3:4]) / 3,
            "questions": 3,
        }
    )
    assert found["unanswerable"]["exact_match"] == pytest.approx(0.5)
    assert found["threshold"] == 0.25
    assert found["train_rows"] == 2
    assert found["test_rows"] == 5
    assert EVALUATIONS["question_answering"].headline(found).startswith("answer F1 0.693 (")


def test_a_resample_draws_contexts_with_all_their_questions() -> None:
    evaluation = evaluate(bootstrap_samples=500, confidence=0.9)
    predicted = [next(iter(answers_from_json(row)), None) for row in evaluation.predictions["predicted"]]
    truth = [answers_from_json(row) for row in evaluation.predictions["answers"]]
    scores = score_all(predicted, truth)
    parts = [scores[:3].sum(axis=0), scores[3:].sum(axis=0)]
    drawn = np.random.default_rng(3).multinomial(2, [0.5, 0.5], size=500)
    slow = [float(answer_figures(first * parts[0] + second * parts[1])["f1"]) for first, second in drawn]
    low, high = np.quantile(slow, [0.05, 0.95])
    assert evaluation.metrics["f1"]["low"] == pytest.approx(low)
    assert evaluation.metrics["f1"]["high"] == pytest.approx(high)


def test_predictions_and_outcomes_are_one_row_a_question() -> None:
    evaluation = evaluate(bootstrap_samples=50)
    table = evaluation.predictions
    assert list(table) == ["id", "answers", "predicted", "scratch", "nearby_words", "no_answer", "score"]
    assert table["predicted"].tolist()[:3] == [answers((14, "Rome")), answers((0, "Anna lives")), "[]"]
    assert evaluation.confusion.to_numpy().tolist() == [
        ["answerable", "right"],
        ["answerable", "partly right"],
        ["unanswerable", "no answer"],
        ["answerable", "partly right"],
        ["unanswerable", "wrong"],
    ]


def test_without_unanswerable_questions_nothing_is_said_about_them() -> None:
    evaluation = evaluate([row for row in TEST if row[2]], bootstrap_samples=50)
    assert set(evaluation.metrics["baselines"]) == {"scratch", "nearby_words"}
    assert "unanswerable" not in evaluation.metrics


def test_characters_lead_where_answers_have_no_spaces() -> None:
    chinese = [("安娜住在北京市。", "安娜住在哪里？", [(4, "北京市")], (4, "北京"), None)]
    metrics = evaluate(chinese, unspaced=True, bootstrap_samples=50).metrics
    assert metrics["f1"]["value"] == 0
    assert metrics["character_f1"]["value"] == pytest.approx(0.8)
    words = QUESTION_ANSWERING.of(metrics)
    assert words.lead == "character_f1"
    assert QUESTION_ANSWERING.of(evaluate(bootstrap_samples=50).metrics).lead == "f1"


def test_the_words_nearby_are_found_in_any_script() -> None:
    learned = ["Ida lives in Lima now.", "Kofi lives in Accra.", "安娜住在利马。"]
    known = [[Answer(13, "Lima")], [Answer(14, "Accra")], []]
    asked = ["Who went to Oslo?", "Where does Anna live in summer?", "x?", "安娜住在哪里？", "Omar?"]
    contexts = ["Omar went to Oslo.", "In summer Anna is in Rome.", "", "安娜住在罗马。", "Omar?"]
    found = answer_by_nearby_words(learned, known, asked, contexts)
    assert found == [Answer(0, "Omar"), Answer(15, "is"), None, Answer(4, "罗"), None]
    for answer, context in zip(found, contexts, strict=True):
        assert answer is None or context[answer.start : answer.end] == answer.text


def test_the_page_tells_what_became_of_the_questions() -> None:
    evaluation = evaluate(bootstrap_samples=50)
    found = answer_findings(evaluation.predictions, make_rows(), {})
    counts = {row["label"]: [count for count, _ in row["cells"]] for row in found["confusions"]["table"]}
    assert found["confusions"]["classes"] == ["right", "partly right", "wrong", "no answer"]
    assert counts == {"answerable": [1, 2, 0, 0], "unanswerable": [0, 0, 1, 1]}
    assert found["mistakes"] == [
        {
            "id": "q4",
            "label": "no answer",
            "predicted": "in May",
            "certainty": "with probability 0.900",
            "text": "Why?\nOmar went to Oslo, [in May].",
        }
    ]
    words = QUESTION_ANSWERING.of(evaluation.metrics)
    assert list(words.headlines) == ["f1", "exact_match"]
    assert [row["name"] for row in result_rows(evaluation.metrics, words)] == [
        bar.name for bar in bars(evaluation.metrics, "f1", words)
    ]
    assert len(verdicts(evaluation.metrics, 0.95, words)) == 2


def test_a_model_that_says_nothing_where_there_is_an_answer_is_shown_the_answer() -> None:
    test = [(ROME, "Where?", [(14, "Rome")], None, None)]
    evaluation = evaluate(test, bootstrap_samples=50)
    [mistake] = answer_findings(evaluation.predictions, make_rows(test), {})["mistakes"]
    assert (mistake["label"], mistake["predicted"]) == ("Rome", "no answer")
    assert mistake["text"] == "Where?\nAnna lives in [Rome]."
