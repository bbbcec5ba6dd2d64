"""Stage `validate`: bad rows set aside with their reasons; above the budget the stage fails."""

from pipeline.common.layout import (
    CLEAN_DOCUMENTS,
    QUARANTINE,
    RAW_DOCUMENTS,
    RAW_REJECTED,
    RAW_TASKS,
    clean_task,
    data_docs,
)
from pipeline.stages.door import Stage, run_stage


def main(stage: Stage) -> None:
    import pandas as pd

    from pipeline.common.tables import read_table, write_table
    from pipeline.corpus.expectations import Examiner
    from pipeline.corpus.quarantine import describe_outcomes, judge, refuse
    from pipeline.corpus.rows import DOCUMENTS, task_table

    sources = {DOCUMENTS: (RAW_DOCUMENTS, CLEAN_DOCUMENTS)}
    for path in sorted(RAW_TASKS.glob("*.parquet")):
        sources[task_table(path.stem)] = (path, clean_task(path.stem))
    rejected = read_table(RAW_REJECTED)
    examiner = Examiner(data_docs())
    verdicts = {}
    for name, (raw, clean) in sources.items():
        verdicts[name] = judge(
            name, read_table(raw), rejected[rejected["table"] == name], stage.params.validate_, examiner
        )
        write_table(clean, verdicts[name].clean)
    write_table(QUARANTINE, pd.concat([verdict.quarantined for verdict in verdicts.values()]))
    page = examiner.write_pages()
    stage.journal.artifact(page.parent)
    stage.announce({f"{name}.{fate}": n for name, verdict in verdicts.items() for fate, n in verdict.counts.items()})
    stage.announce({"data_docs": str(page)})
    refuse(verdicts, QUARANTINE, page)
    stage.write_metrics(
        {
            "tables": {name: verdict.counts for name, verdict in verdicts.items()},
            "expectations": {name: describe_outcomes(verdict.outcomes) for name, verdict in verdicts.items()},
        }
    )


if __name__ == "__main__":
    run_stage(main, "validate")
