"""Stage `report`: one page that shows and explains the build, and its Markdown twin."""

from pipeline.common.layout import REPORT
from pipeline.stages.door import Stage, run_stage


def main(stage: Stage) -> None:
    from pipeline.evaluation.report.facts import gather_facts
    from pipeline.evaluation.report.page import HTML_PAGE, write_report

    facts = gather_facts(stage.params, stage.key)
    write_report(REPORT, facts)
    stage.journal.artifact(REPORT)
    for task in facts["tasks"]:
        for verdict in task["verdicts"]:
            print(f"{stage.name}  {task['name']}: {verdict['sentence']}")
    print(f"{stage.name}  {(REPORT / HTML_PAGE).resolve()}")


if __name__ == "__main__":
    run_stage(main, "report")
