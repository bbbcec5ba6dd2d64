"""Kind python-docs: what is read of installed libraries, how it is split and masked."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.common.errors import HallmarkError
from pipeline.common.params import Source
from pipeline.corpus import docstrings
from pipeline.corpus.docstrings import Reading, read_all
from pipeline.corpus.forms.labels import LABELS
from pipeline.corpus.masking import name_pattern
from pipeline.corpus.near_duplicates import first_of_their_kind
from pipeline.corpus.python_docs import answers, library_files, read_python_docs
from pipeline.corpus.rows import DOCUMENT_COLUMNS, Corpus
from tests.corpus.conftest import Install

MODULE = '''
"""The module: {about}."""
import nowhere_to_be_found
raise RuntimeError("this code must not run")

def first(x=lambda: 1):
    """First of {about}, with alpha in it."""
    def inner():
        """Inner of {about}, by Alpha.core."""

if True:
    class Thing:
        """Thing of {about} for AlphaThings."""
        async def method(self):
            r"""Method of {about}\\d."""
        def silent(self): pass
else:
    def other():
        """Other of {about}."""
try: pass
except ValueError:
    def rescued():
        """Rescued of {about}."""
'''


def make_source(*libraries: str, **settings: float) -> Source:
    return Source.model_validate({"libraries": list(libraries), "min_characters": 10} | settings)


def test_docstrings_come_in_reading_order_and_nothing_is_imported(install: Install) -> None:
    install("alpha", {"alpha/core.py": MODULE.format(about="cheese")})
    corpus = read_python_docs(make_source("alpha", test_share=0, validation_share=0), seed=1)
    assert corpus.documents["text"].to_list() == [
        "The module: cheese.\n\nFirst of cheese, with alpha in it.\n\nInner of cheese, by Alpha.core.\n\n"
        "Thing of cheese for AlphaThings.\n\nMethod of cheese\\d.\n\nOther of cheese.\n\nRescued of cheese."
    ]
    assert corpus.documents.drop(columns="text").to_dict("records") == [
        {"id": "alpha/alpha/core.py", "split": "train", "group": "alpha.core", "source": "alpha"}
    ]
    task = corpus.tasks["library"]
    assert task["id"].to_list()[:2] == ["alpha/alpha/core.py:2", "alpha/alpha/core.py:7"]
    assert set(task["group"]) == {"alpha.core"}
    assert task["text"].to_list()[1:4] == [
        "First of cheese, with lib in it.",
        "Inner of cheese, by lib.core.",
        "Thing of cheese for libThings.",
    ]


def test_tests_and_vendored_copies_are_not_read(install: Install) -> None:
    files = ["a/__init__.py", "a/core.py", "a/tests/x.py", "a/test_x.py", "a/x_test.py", "a/conftest.py"]
    files += ["a/_vendor/b.py", "a/test/x.py", "a/data.txt", "../../bin/a.py"]
    install("alpha", dict.fromkeys(files[:-1], ""))
    assert [(file.module, file.name) for file in library_files("alpha")] == [
        ("a", "a/__init__.py"),
        ("a.core", "a/core.py"),
    ]


def test_only_the_distributions_own_files_are_read(install: Install) -> None:
    install("alpha", {"shared/alpha.py": ""})
    install("beta", {"shared/beta.py": ""})
    assert [file.name for file in library_files("alpha")] == ["shared/alpha.py"]


def test_the_standard_library_has_no_tests_and_no_site_packages() -> None:
    names = {file.name for file in library_files("stdlib")}
    assert {"asyncio/tasks.py", "json/__init__.py", "zipfile.py"} & names
    assert not any(re.search(r"(^|/)(site-packages|dist-packages|tests?)/|(^|/)test_", name) for name in names)


def test_a_file_that_is_not_python_is_set_aside_with_its_reason(install: Install) -> None:
    install("alpha", {"a/good.py": MODULE.format(about="tea"), "a/bad.py": "def broken(:\n", "a/nul.py": b"x\0"})
    corpus = read_python_docs(make_source("alpha"), seed=1)
    assert corpus.rejected["id"].to_list() == ["alpha/a/bad.py", "alpha/a/nul.py"]
    assert corpus.rejected["reason"][0].startswith("SyntaxError")
    assert "null bytes" in corpus.rejected["reason"][1]
    assert corpus.rejected["text"][0] == "def broken(:\n"


def test_an_empty_corpus_is_refused(install: Install) -> None:
    install("alpha", {"a/bare.py": "x = 1\n"})
    with pytest.raises(HallmarkError, match="no docstring of 10 characters or more in alpha"):
        read_python_docs(make_source("alpha"), seed=1)


def test_a_library_that_is_not_installed_is_named() -> None:
    with pytest.raises(HallmarkError, match="'no-such-library' is not installed"):
        read_python_docs(make_source("no-such-library"), seed=1)


@pytest.fixture(scope="module")
def real() -> Corpus:
    """Small real libraries that the project's own dependencies always install."""
    return read_python_docs(REAL, seed=1)


REAL = Source.model_validate({"libraries": ["networkx", "prefect"], "min_characters": 80, "test_share": 0.2})


def test_columns_ids_and_dtypes(real: Corpus) -> None:
    task = real.tasks["library"]
    assert real.documents.columns.to_list() == DOCUMENT_COLUMNS
    assert task.columns.to_list() == LABELS.columns(with_pair=False)
    assert real.documents["id"].is_unique
    assert task["id"].is_unique
    assert set(map(str, [*real.documents.dtypes, *task.dtypes])) == {"str"}
    assert set(task["label"]) == {"networkx", "prefect"}
    assert task["text"].str.len().min() > 40  # masking may shorten a text of 80


def test_modules_do_not_leak_across_splits(real: Corpus) -> None:
    task = real.tasks["library"]
    assert (task.groupby("group")["split"].nunique() == 1).all()
    modules = {split: set(rows["group"]) for split, rows in task.groupby("split")}
    documents = {split: set(rows["group"]) for split, rows in real.documents.groupby("split")}
    assert documents["validation"] == modules["validation"]
    assert documents["train"] == modules["train"]
    assert not modules["test"] & (documents["train"] | documents["validation"])


def test_no_text_has_a_near_duplicate(real: Corpus) -> None:
    assert all(first_of_their_kind(real.tasks["library"]["text"]))
    assert real.facts["near_duplicates_removed"] > 0
    assert real.facts["docstrings"] - real.facts["near_duplicates_removed"] == len(real.tasks["library"])


def test_a_copy_of_a_held_out_text_goes_from_training(install: Install) -> None:
    modules = {f"a/m{number:02}.py": MODULE.format(about=f"number {number} of many") for number in range(30)}
    copy = '"""One text that is the same in every module of this library, word by word."""\n'
    install("alpha", {name: f"{copy}class A:\n    {text.strip().splitlines()[0]}\n" for name, text in modules.items()})
    corpus = read_python_docs(make_source("alpha", test_share=0.2, validation_share=0.1), seed=1)
    task = corpus.tasks["library"]
    copies = task[task["text"].str.startswith("One text")]
    assert copies["split"].to_list() == ["test"]
    assert not corpus.documents["text"].str.contains("One text").any()


def test_no_masked_text_names_a_library(real: Corpus) -> None:
    files = [file for library in REAL.libraries for file in library_files(library)]
    assert {"networkx", "nx", "prefect"} <= answers(files)
    pattern = name_pattern(answers(files))
    assert not [text for text in real.tasks["library"]["text"] if pattern.search(text)]
    assert real.documents["text"].map(lambda text: pattern.search(text) is not None).mean() > 0.2


def test_many_processes_read_what_one_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    files = library_files("networkx")[:60]
    alone = list(read_all(files, 80, processes=1, with_functions=True))
    assert any(found.functions for found in alone if isinstance(found, Reading))
    monkeypatch.setattr(docstrings, "SMALL_BYTES", 0)
    assert list(read_all(files, 80, processes=2, with_functions=True)) == alone


def test_reading_needs_no_great_expectations() -> None:
    code = (
        "import sys, pipeline.corpus.python_docs, pipeline.corpus.files, pipeline.stages.ingest\n"
        "sys.exit('great_expectations' in sys.modules)"
    )
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0
