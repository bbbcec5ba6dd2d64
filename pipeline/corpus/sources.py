"""The kinds of text that `source.kind` names, read and put together."""

import pandas as pd

from pipeline.common.params import Source, Task
from pipeline.corpus.files import read_files
from pipeline.corpus.python_docs import read_python_docs
from pipeline.corpus.rows import Corpus
from pipeline.corpus.splitting import TRAIN


def read_sources(source: Source, tasks: dict[str, Task], seed: int) -> Corpus:
    """Read the documents of every kind, and the labelled rows: of a task with a path from its file.

    Raises:
        HallmarkError: see `read_python_docs` and `read_files`.
    """
    made = [name for name, task in tasks.items() if not task.path]
    if not source.reads_files:
        return read_python_docs(source, seed, made)
    own = read_files(source, {name: task for name, task in tasks.items() if task.path}, seed)
    return _together(read_python_docs(source, seed, made), own) if source.reads_libraries else own


def _together(docs: Corpus, own: Corpus) -> Corpus:
    """One corpus; what each of the two holds out for a task is in no document of the other."""
    docs_kept = docs.documents[~docs.documents["text"].isin(_held_out(own))]
    own_kept = own.documents[~own.documents["text"].isin(_held_out(docs))]
    documents = pd.concat([docs_kept, own_kept], ignore_index=True)
    facts = docs.facts | own.facts
    facts["documents_held_out_by_tasks"] += len(docs.documents) + len(own.documents) - len(documents)
    return Corpus(
        documents=documents,
        tasks=docs.tasks | own.tasks,
        rejected=pd.concat([docs.rejected, own.rejected], ignore_index=True),
        facts=facts,
    )


def _held_out(corpus: Corpus) -> list[str]:
    return [text for table in corpus.tasks.values() for text in table.loc[table["split"] != TRAIN, "text"]]
