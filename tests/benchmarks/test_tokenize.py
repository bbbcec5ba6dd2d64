"""The benchmark of the tokenizers: its figures at toy size, and what it refuses."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from benchmarks.checkout import REPOSITORY
from benchmarks.tokenize import _limit, format_result
from pipeline.tokenization.training import KINDS


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = random.Random(0)
    words = ["tokens", "are", "counted", "Zwölf", "中文", "again", "and", "1234"]
    for place in range(4):
        text = " ".join(generator.choices(words, k=2000))
        (tmp_path / f"{place}.txt").write_text(text, encoding="utf-8")
    (tmp_path / "ignored.py").write_text("not = read", encoding="utf-8")
    return tmp_path


def test_a_real_run_measures_every_kind(folder: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "tokenize", "--json", "--text", str(folder)]
    command += ["--repeats", "2", "--vocab-size", "320"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found["kinds"]) == list(KINDS)
    assert found["documents"] == 4
    assert found["text_bytes"] == sum(path.stat().st_size for path in folder.glob("*.txt"))
    assert found["kinds"]["bytes"]["bytes_per_token"] == 1
    for measured in found["kinds"].values():
        assert measured["training_seconds"]["median"] > 0
        assert 1 <= measured["bytes_per_token"] < 10
        bare, ours = measured["encoding"]["bare"], measured["encoding"]["shards"]
        assert len(bare["seconds"]) == len(ours["seconds"]) == 2
        rounds = [slow / fast for slow, fast in zip(bare["seconds"], ours["seconds"], strict=True)]
        assert measured["ratio"]["shards"] == pytest.approx(sum(rounds) / 2)
        assert bare["megabytes_per_second"] == pytest.approx(found["text_bytes"] / 1e6 / bare["median"])
    assert [line.split()[0] for line in format_result(found).splitlines()[4:]] == list(KINDS)


def test_one_file_is_read_up_to_the_limit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = str(folder / "0.txt")
    main(["tokenize", "--text", text, "--kinds", "bytes", "--megabytes", "0.001", "--repeats", "1", "--json"])
    assert 998 <= json.loads(capsys.readouterr().out)["text_bytes"] <= 1000


def test_the_limit_cuts_no_character_in_two() -> None:
    assert list(_limit(iter(["abc", "中文", "more"]), 8)) == ["abc", "中"]
    assert list(_limit(iter(["abc", "d"]), 3)) == ["abc"]


def test_an_unknown_kind_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no kind words; allowed: bpe, wordpiece, unigram, bytes, characters"):
        main(["tokenize", "--kinds", "bpe,words"])
    with pytest.raises(SystemExit, match=r"there is no text\n  next: name a file or folder with --text"):
        main(["tokenize", "--text", str(tmp_path)])
