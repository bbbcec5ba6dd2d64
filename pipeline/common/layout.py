"""Where every stage keeps its outputs. `dvc.yaml` names the same paths; a test compares the two."""

import os
from pathlib import Path

RAW = Path("data/raw")
RAW_DOCUMENTS = RAW / "documents.parquet"
RAW_TASKS = RAW / "tasks"
RAW_REJECTED = RAW / "rejected.parquet"

CLEAN = Path("data/clean")
CLEAN_DOCUMENTS = CLEAN / "documents.parquet"
CLEAN_TASKS = CLEAN / "tasks"
QUARANTINE = CLEAN / "quarantine.parquet"

TOKENIZER = Path("data/tokenizer")
TOKENS = Path("data/tokens")

IMPORTED = Path("models/import")
PRETRAINED = Path("models/pretrain")
FINETUNED = Path("models/finetune")
SCRATCH_ARM = Path("models/scratch")
REGISTERED = Path("models/register")

METRICS = Path("metrics")
PREDICTIONS = Path("predictions")
PLOTS = Path("plots")
PROMPTING = Path("prompting")
REPORT = Path("report")


def raw_task(task: str) -> Path:
    return RAW_TASKS / f"{task}.parquet"


def clean_task(task: str) -> Path:
    return CLEAN_TASKS / f"{task}.parquet"


def metrics_file(stage: str) -> Path:
    """`finetune@library` -> metrics/finetune/library.json, `pretrain` -> metrics/pretrain.json."""
    return METRICS / f"{stage.replace('@', '/')}.json"


def home() -> Path:
    """The ignored folder of this machine's state: scratch, journals, timings, the MLflow store.

    Queued DVC experiments run in temporary copies, so it hangs on the repository that DVC names,
    never on the working directory alone. `HALLMARK_HOME` overrides it.
    """
    if chosen := os.environ.get("HALLMARK_HOME"):
        return Path(chosen).resolve()
    return Path(os.environ.get("DVC_ROOT", ".")).resolve() / ".hallmark"


def stage_home(stage_key: str) -> Path:
    """The folder of one stage key: its journal, timing and training scratch."""
    return home() / "stages" / stage_key


def data_docs() -> Path:
    """The fixed place of Great Expectations' HTML pages (timestamped inside, so never a DVC output)."""
    return home() / "data-docs"
