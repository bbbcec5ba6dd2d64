"""Stage `import`: a model to start from, published or made here, to a folder of our own; or that there is none."""

import shutil
from typing import Any

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

    told = _read(source)
    lists = {name: ", ".join(told[name]) for name in ("missing", "left_behind") if told[name]}
    stage.announce({"init_from": f"{source} ({told['model_type']})", **lists})


def _read(source: str) -> dict[str, Any]:
    from pipeline.common.errors import HallmarkError
    from pipeline.model.interchange import own
    from pipeline.model.interchange.importing import import_model
    from pipeline.tracking.locate import STAGES, model_folder

    if not source.startswith(own.SCHEME):
        return import_model(source, IMPORTED)
    what = source.removeprefix(own.SCHEME)
    if what.partition("@")[0] in STAGES:
        raise HallmarkError(
            f"{what!r} is made from what this stage leaves",
            where="params.yaml: model.init_from",
            fix="name a registered model (NAME@ALIAS), an MLflow run's id, or a copy of the folder",
        )
    with model_folder(what) as found:
        return own.adopt_model(source, found, IMPORTED)


if __name__ == "__main__":
    run_stage(main, "import")
