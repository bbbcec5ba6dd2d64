"""The process that tells MLflow of a build."""

from pathlib import Path

import psutil

from flows.publish import start_early, take_publisher


def test_the_process_that_was_started_early_is_taken_once(tmp_path: Path) -> None:
    before = len(psutil.Process().children())
    start_early()
    publishers = [take_publisher()]
    assert len(psutil.Process().children()) == before + 1
    publishers.append(take_publisher())
    assert len(psutil.Process().children()) == before + 2
    said: list[str] = []
    for publisher in publishers:
        publisher.begin(tmp_path, {"HALLMARK_BUILD": "some"}, [])
        publisher.finish(said.append, said.append)
    assert said == ["tracking is off (HALLMARK_TRACKING)"] * 2
