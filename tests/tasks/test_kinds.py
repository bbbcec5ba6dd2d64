"""Every kind of task that params.yaml allows is known wherever a stage asks for it."""

from typing import get_args

import pytest

from pipeline.common.params import Task
from pipeline.corpus.forms.kinds import FORMS
from pipeline.evaluation.kinds import EVALUATIONS
from pipeline.evaluation.report.kinds import PAGES
from pipeline.evaluation.tallies import COUNTED
from pipeline.serving.kinds import SERVED
from pipeline.tasks.kinds import KINDS

ALLOWED = set(get_args(Task.model_fields["kind"].annotation))


@pytest.mark.parametrize("table", [FORMS, KINDS, EVALUATIONS, COUNTED, PAGES, SERVED])
def test_every_kind_has_its_entry(table: dict[str, object]) -> None:
    assert set(table) == ALLOWED
