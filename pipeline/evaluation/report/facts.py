"""Everything that the page shows, read from the outputs of the stages. Only the tasks in params.yaml are read."""

from pathlib import Path
from typing import Any

from pipeline.common.files import read_json, read_jsonl, sha256_file
from pipeline.common.layout import (
    CLEAN_DOCUMENTS,
    FINETUNED,
    PREDICTIONS,
    PRETRAINED,
    QUARANTINE,
    SCRATCH_ARM,
    TOKENIZER,
    clean_task,
    metrics_file,
)
from pipeline.common.params import Params, Task
from pipeline.common.tables import read_table
from pipeline.evaluation.report.findings import bars, result_rows, verdicts
from pipeline.evaluation.report.kinds import PAGES
from pipeline.evaluation.report.samples import write_samples
from pipeline.model.weights import read_config
from pipeline.tasks.rows import read_rows

CURVE = "metrics.jsonl"
QUARANTINED_SHOWN = 20


def gather_facts(params: Params, key: str) -> dict[str, Any]:
    """Read what the stages left.

    Args:
        params: names the tasks, and holds the seed of the samples.
        key: the stage key of this report.
    """
    return {
        "key": key,
        "seed": params.seed,
        "confidence": params.evaluate.confidence,
        "bootstrap_samples": params.evaluate.bootstrap_samples,
        "tasks": [task_facts(name, task, params) for name, task in params.tasks.items()],
        "pretrain": pretrain_facts(),
        "samples": write_samples(PRETRAINED, CLEAN_DOCUMENTS, params.seed),
        "data": read_json(metrics_file("ingest")),
        "tokenizer": read_json(metrics_file("tokenizer")),
        "encode": read_json(metrics_file("encode")),
        "validation": validation_facts(),
        "lineage": lineage(params),
    }


def task_facts(name: str, task: Task, params: Params) -> dict[str, Any]:
    metrics, page = read_json(metrics_file(f"evaluate@{name}")), PAGES[task.kind]
    config, rows = read_config(FINETUNED / name)["task"], read_rows(clean_task(name))
    words = page.words.of(metrics).led_by(task.measure)
    count = page.label_counts
    return {
        "name": name,
        "kind": task.kind,
        "headlines": words.headlines,
        "learned": words.learned,
        "metrics": metrics,
        "training": read_json(metrics_file(f"finetune@{name}")),
        "verdicts": verdicts(metrics, params.evaluate.confidence, words),
        "bars": {headline: bars(metrics, headline, words) for headline in words.headlines},
        "results": result_rows(metrics, words),
        "taken": words.taken,
        "labels": count(rows, config["labels"], task, params.seed) if count else [],
        "confusions": None,
        **page.findings(read_table(PREDICTIONS / f"{name}.parquet"), rows, config),
        "curves": {
            "finetune": validation_curve(FINETUNED / name, words.learned),
            "scratch": validation_curve(SCRATCH_ARM / name, words.learned),
        },
    }


def pretrain_facts() -> dict[str, Any]:
    figures = read_json(metrics_file("pretrain"))
    ngram = read_json(metrics_file("ngram"))
    return {
        **figures,
        "ngram_bits_per_byte": ngram["bits_per_byte"],
        "model": read_config(PRETRAINED)["model"],
        "loss": training_curve(PRETRAINED),
        "bits": validation_curve(PRETRAINED, "bits_per_byte"),  # empty unless the model is causal
        "validation_losses": validation_curve(PRETRAINED, "loss"),
    }


def training_curve(folder: Path) -> list[tuple[float, float]]:
    return [(point["step"], point["loss"]) for point in read_jsonl(folder / CURVE) if "loss" in point]


def validation_curve(folder: Path, figure: str) -> list[tuple[float, float]]:
    name = f"validation_{figure}"
    return [(point["step"], point[name]) for point in read_jsonl(folder / CURVE) if name in point]


def validation_facts() -> dict[str, Any]:
    """The result of the stage `validate`: every expectation of every table, and the first rows set aside."""
    found = read_json(metrics_file("validate"))
    quarantine = read_table(QUARANTINE, columns=["table", "id", "reasons"])
    return {
        "tables": [
            {"name": name, "counts": counts, "expectations": found["expectations"][name]}
            for name, counts in found["tables"].items()
        ],
        "quarantined": quarantine.head(QUARANTINED_SHOWN).to_dict("records"),
        "quarantined_rows": len(quarantine),
    }


def lineage(params: Params) -> list[tuple[str, str]]:
    """What the figures were made from: each file with its sha256."""
    files = [CLEAN_DOCUMENTS, TOKENIZER / "tokenizer.json", PRETRAINED / "model.safetensors"]
    for name in params.tasks:
        files += [clean_task(name), FINETUNED / name / "model.safetensors", SCRATCH_ARM / name / "model.safetensors"]
        files += [PREDICTIONS / f"{name}.parquet", metrics_file(f"evaluate@{name}")]
    return [(path.as_posix(), sha256_file(path)) for path in files]
