"""The benchmark of prompting: its figures at toy size, and what it refuses."""

import json

import pytest

from benchmarks.__main__ import main
from benchmarks.prompting import format_result

TOY = ["--layers", "1", "--width", "64", "--vocab-size", "64", "--texts", "3", "--labels", "4", "--text-tokens", "6"]


def test_a_real_run_measures_both_ways_and_finds_the_same_scores(capsys: pytest.CaptureFixture[str]) -> None:
    main(["prompting", "--json", *TOY, "--shots", "0,2", "--context", "32", "--repeats", "2"])
    found = json.loads(capsys.readouterr().out)
    assert list(found["shots"]) == ["0", "2"]
    for measured in found["shots"].values():
        assert measured["largest_difference"] < 1e-5
        for way in measured["ways"].values():
            assert len(way["seconds"]) == 2
            assert way["texts_per_second"] == pytest.approx(3 / way["median"])
        speeds = {name: way["texts_per_second"] for name, way in measured["ways"].items()}
        assert measured["ratio"] == pytest.approx(speeds["hallmark"] / speeds["loop"])
    table = format_result(found)
    assert [line.split()[:2] for line in table.splitlines()[4:8]] == [
        ["loop", "0"],
        ["hallmark", "0"],
        ["loop", "2"],
        ["hallmark", "2"],
    ]


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(SystemExit, match="width 100 has to be a multiple of 64"):
        main(["prompting", "--width", "100"])
    with pytest.raises(SystemExit, match="prompts of 413 tokens to fit the context of 256"):
        main(["prompting", "--shots", "9"])
