"""Stage `import`: a published model to a folder of our own, or a folder that says there is none."""

import shutil

from pipeline.common.files import write_json
from pipeline.common.layout import IMPORTED
from pipeline.stages.door import Stage, run_stage


def main(stage: Stage) -> None:
    source = stage.params.model.init_from
    shutil.rmtree(IMPORTED, ignore_errors=True)
    if source is None:
        write_json(IMPORTED / "config.json", {"import": None})
        stage.announce({"init_from": "none: pretraining starts from random weights"})
        return

    from pipeline.model.interchange.importing import import_model

    told = import_model(source, IMPORTED)
    lists = {name: ", ".join(told[name]) for name in ("missing", "left_behind") if told[name]}
    stage.announce({"init_from": f"{source} ({told['model_type']})", **lists})


if __name__ == "__main__":
    run_stage(main, "import")
