"""Stage `ingest`: sources to documents and labelled rows."""

import platform

from pipeline.common.layout import RAW_DOCUMENTS, RAW_REJECTED, raw_task
from pipeline.stages.door import Stage, run_stage


def main(stage: Stage) -> None:
    from pipeline.common.tables import write_table
    from pipeline.corpus.files import read_files
    from pipeline.corpus.installed import check_installed
    from pipeline.corpus.python_docs import read_python_docs
    from pipeline.corpus.rows import describe

    source, seed = stage.params.source, stage.params.seed
    versions: dict[str, str] = {}
    if source.kind == "python-docs":
        versions = check_installed(source.libraries) | {"python": platform.python_version()}
        corpus = read_python_docs(source, seed)
    else:
        corpus = read_files(source, stage.params.tasks, seed)

    write_table(RAW_DOCUMENTS, corpus.documents)
    for task, table in corpus.tasks.items():
        write_table(raw_task(task), table)
    write_table(RAW_REJECTED, corpus.rejected)
    stage.announce(corpus.facts | {"rejected": len(corpus.rejected)} | {f"version.{n}": v for n, v in versions.items()})
    stage.write_metrics(
        {
            "documents": describe(corpus.documents),
            "tasks": {task: describe(table) for task, table in corpus.tasks.items()},
            "rejected": len(corpus.rejected),
            "versions": versions,
            **corpus.facts,
        }
    )


if __name__ == "__main__":
    run_stage(main, "ingest")
