"""Every kind of task that params.yaml allows is known wherever a stage asks for it."""

from typing import get_args

import pytest

from pipeline.common.params import Task
from pipeline.evaluation.kinds import EVALUATIONS
from pipeline.evaluation.report.facts import COUNTS, FINDINGS
from pipeline.evaluation.report.findings import WORDS
from pipeline.serving.package import OUTPUTS
from pipeline.serving.save import SERVED
from pipeline.stages.register import COMPARISONS
from pipeline.tasks.kinds import KINDS

ALLOWED = set(get_args(Task.model_fields["kind"].annotation))


@pytest.mark.parametrize("table", [KINDS, EVALUATIONS, FINDINGS, COUNTS, WORDS, OUTPUTS, SERVED, COMPARISONS])
def test_every_kind_has_its_entry(table: dict[str, object]) -> None:
    assert set(table) == ALLOWED
