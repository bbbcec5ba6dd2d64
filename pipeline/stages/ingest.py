"""Stage `ingest`: sources to documents and labelled rows."""

import platform

from pipeline.common.layout import RAW_DOCUMENTS, RAW_REJECTED, raw_task
from pipeline.stages.door import Stage, run_stage


def main(stage: Stage) -> None:
    from pipeline.common.tables import write_table
    from pipeline.corpus.describing import describe
    from pipeline.corpus.installed import check_installed
    from pipeline.corpus.sources import read_sources

    source, seed = stage.params.source, stage.params.seed
    versions: dict[str, str] = {}
    if source.reads_libraries:
        versions = check_installed(source.libraries) | {"python": platform.python_version()}
    corpus = read_sources(source, stage.params.tasks, seed)

    write_table(RAW_DOCUMENTS, corpus.documents)
    for task, table in corpus.tasks.items():
        write_table(raw_task(task), table)
    write_table(RAW_REJECTED, corpus.rejected)
    documents = describe(corpus.documents)
    stage.announce({"documents": ", ".join(f"{name} {count}" for name, count in documents["sources"].items())})
    stage.announce(corpus.facts | {"rejected": len(corpus.rejected)} | {f"version.{n}": v for n, v in versions.items()})
    stage.write_metrics(
        {
            "documents": documents,
            "tasks": {task: describe(table) for task, table in corpus.tasks.items()},
            "rejected": len(corpus.rejected),
            "versions": versions,
            **corpus.facts,
        }
    )


if __name__ == "__main__":
    run_stage(main, "ingest")
