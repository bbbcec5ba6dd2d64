"""The benchmark of generation: its figures at toy size, and what it refuses."""

import json

import pytest

from benchmarks.__main__ import main
from benchmarks.generate import format_result


def test_a_real_run_measures_every_way_and_finds_the_same_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    """Eager: that compiled steps write the same is tested with the model."""
    command = ["generate", "--json", "--eager", "--layers", "1", "--width", "64", "--vocab-size", "64"]
    main([*command, "--batches", "2", "--prompt-tokens", "4", "--new-tokens", "8", "--repeats", "2"])
    found = json.loads(capsys.readouterr().out)
    assert found["weight_bytes"] == {"float32": 4 * found["parameters"], "bfloat16": 2 * found["parameters"]}
    batch = found["batches"]["2"]
    assert batch["same_tokens"] is True
    assert batch["compile_seconds"].keys() == {"float32", "bfloat16"}
    speeds = {}
    for name, way in batch["ways"].items():
        assert len(way["seconds"]) == 2
        assert way["tokens_per_second"] == pytest.approx(2 * 8 / way["median"])
        limit = 2 * found["bandwidth_bytes_per_second"] / found["weight_bytes"][name.split()[1]]
        assert way["share_of_memory_limit"] == pytest.approx(way["tokens_per_second"] / limit)
        speeds.setdefault(name.split()[0], []).append(way["tokens_per_second"])
    assert batch["ratio"] == pytest.approx(max(speeds["hallmark"]) / max(speeds["transformers"]))
    table = format_result(found)
    assert "in float32 the same tokens" in table
    assert [line.split()[0] for line in table.splitlines()[-4:]] == ["transformers", "hallmark"] * 2


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(SystemExit, match="width 100 has to be a multiple of 64"):
        main(["generate", "--width", "100"])
    with pytest.raises(SystemExit, match="to fit the context of 512"):
        main(["generate", "--new-tokens", "500"])
