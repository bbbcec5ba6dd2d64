"""The result table of the present build: what `dvc.lock` and the metrics files say, with the timings beside them."""

from pathlib import Path
from typing import Any

import yaml

from pipeline.common.errors import HallmarkError
from pipeline.common.files import read_json
from pipeline.common.layout import REPORT, metrics_file, stage_home
from pipeline.common.params import Params, load_params
from pipeline.tracking.stage_key import decisive, locked_stages, stage_key

HEADLINES = {
    "accuracy": "accuracy",
    "subset_accuracy": "subset accuracy",
    "micro_f1": "micro-F1",
    "macro_f1": "macro-F1",
    "character_f1": "F1 of characters",
    "f1": "answer F1",
    "exact_match": "exact match",
    "chrf": "chrF",
    "bleu": "BLEU",
    "rouge_l": "ROUGE-L",
    "token_accuracy": "token accuracy",
    "perplexity": "perplexity",
}
BASELINES = {
    "scratch": "same net, not pretrained",
    "tfidf": "TF-IDF, log. regression",
    "word_shapes": "word shapes, log. regr.",
    "majority": "majority class",
    "nearby_words": "words near the question's",
    "no_answer": "never an answer",
    "nearest": "target of nearest text",
    "lead": "first sentence",
    "unigram": "unigram of the answers",
}
BUILD = "dvc repro"


def summarize() -> dict[str, Any]:
    """Collect the figures of the build in the working directory.

    Returns:
        "tasks": {TASK: {"accuracy", "macro_f1": {"value", "low", "high"}, "baselines": {NAME: the same two}}}, with
        "micro_f1" (and "subset_accuracy") in place of "accuracy" where a text has any number of spans (or labels), "f1"
        and "exact_match" where questions are answered, "chrf", "bleu" and "rouge_l" where texts are written,
        "token_accuracy" and "perplexity" of dialogues;
        "pretrain": {"bits_per_byte", "ngram_bits_per_byte", "tokens_per_second"};
        "stages": {STAGE: {"key", "seconds", "peak_memory_bytes"}}, in the order of `dvc.yaml`;
        "missing": the stages that were never built. A speed or time is None where the outputs were restored
        from a cache and this machine never ran the stage; a figure is None where its stage is missing, and so is
        "bits_per_byte" where the pretrained model is not causal.

    Raises:
        HallmarkError: nothing was built here, or a metrics file is gone.
    """
    params = load_params()
    tasks = list(params.tasks)
    locked = locked_stages()
    stages, missing = {}, []
    for name in stage_names(params):
        if name in locked:
            stages[name] = _stage(name, locked[name])
        else:
            missing.append(name)
    if not stages:
        raise HallmarkError("nothing has been built here yet", where="dvc.lock", fix=BUILD)
    speed = stages.get("pretrain", {}).pop("tokens_per_second", None)
    return {
        "tasks": {task: _task(task) for task in tasks if f"evaluate@{task}" in stages},
        "pretrain": {
            "bits_per_byte": _metrics("pretrain").get("bits_per_byte") if "pretrain" in stages else None,
            "ngram_bits_per_byte": _metrics("ngram")["bits_per_byte"] if "ngram" in stages else None,
            "tokens_per_second": speed,
        },
        "stages": stages,
        "missing": missing,
    }


def stage_names(params: Params) -> list[str]:
    """The stages of `dvc.yaml` in its order; one that is made for each task, with the name of each."""
    made_for = {"${tasks}": params.tasks, "${prompting}": params.prompting}
    declared = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
    names: list[str] = []
    for name, stage in declared.items():
        names += [f"{name}@{task}" for task in made_for[stage["foreach"]]] if "foreach" in stage else [name]
    return names


def _stage(name: str, locked: dict[str, Any]) -> dict[str, Any]:
    key = stage_key(decisive(name, locked))
    timing_file = stage_home(key) / "timing.json"
    timing = read_json(timing_file) if timing_file.exists() else {}
    described = {"key": key, "seconds": timing.get("seconds"), "peak_memory_bytes": timing.get("peak_memory_bytes")}
    if "tokens_per_second" in timing and name == "pretrain":
        described["tokens_per_second"] = timing["tokens_per_second"]
    return described


def _metrics(stage: str) -> dict[str, Any]:
    path = metrics_file(stage)
    if not path.exists():
        raise HallmarkError("this metrics file is gone", where=str(path), fix=f"dvc checkout, or {BUILD}")
    return read_json(path)


def _task(task: str) -> dict[str, Any]:
    metrics = _metrics(f"evaluate@{task}")
    headlines = [name for name in HEADLINES if "value" in metrics.get(name, {})]  # `f1` of classes: only averages
    found: dict[str, Any] = {headline: _interval(metrics[headline]) for headline in headlines}
    baselines = {name: metrics["baselines"][name] for name in BASELINES if name in metrics["baselines"]}
    found["baselines"] = {name: {line: _interval(row[line]) for line in headlines} for name, row in baselines.items()}
    return found


def _interval(figure: dict[str, float]) -> dict[str, float]:
    return {part: figure[part] for part in ("value", "low", "high")}


def print_summary(summary: dict[str, Any]) -> None:
    """Print the result table, the stages and where to look next."""
    from rich.console import Console

    console = Console(highlight=False)
    for task, figures in summary["tasks"].items():
        console.print(_task_table(task, figures))
    console.print(_pretrain_line(summary["pretrain"]))
    console.print(_stage_table(summary["stages"]))
    console.print("Where to look next")
    for line in _next_steps(summary):
        console.print(line)


def _task_table(task: str, figures: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table(title=f"task {task}, test split", title_justify="left")
    table.add_column("model")
    headlines = [headline for headline in HEADLINES if headline in figures]
    for headline in headlines:
        table.add_column(HEADLINES[headline], justify="right")
    rows = {"pretrained, fine-tuned": figures} | {BASELINES[name]: row for name, row in figures["baselines"].items()}
    for name, row in rows.items():
        table.add_row(name, *(_format_interval(row[headline]) for headline in headlines))
    return table


def _format_interval(figure: dict[str, float]) -> str:
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def _pretrain_line(figures: dict[str, Any]) -> str:
    bits = [("pretrained", figures["bits_per_byte"]), ("byte 5-gram", figures["ngram_bits_per_byte"])]
    shown = [f"{name} {value:.3f}" for name, value in bits if value is not None]
    if figures["tokens_per_second"] is not None:
        shown.append(f"{figures['tokens_per_second']:,.0f} tokens/s")
    return "bits per byte of unseen text: " + ", ".join(shown) if shown else "not pretrained yet"


def _stage_table(stages: dict[str, Any]) -> Any:
    from rich.table import Table

    table = Table("stage", "key")
    table.add_column("seconds", justify="right")
    table.add_column("peak memory", justify="right")
    for name, stage in stages.items():
        seconds, peak = stage["seconds"], stage["peak_memory_bytes"]
        table.add_row(
            name,
            stage["key"][:12],
            "restored" if seconds is None else f"{seconds:.1f}",
            "" if peak is None else f"{peak / 2**20:,.0f} MiB",
        )
    return table


def _next_steps(summary: dict[str, Any]) -> list[str]:
    steps = []
    if summary["missing"]:
        steps.append(f"missing   {', '.join(summary['missing'])}; {BUILD}")
    if (REPORT / "index.html").exists():
        steps.append(f"report    {(REPORT / 'index.html').resolve()}")
    steps.append("builds    make ui")
    steps += [f"promote   hallmark promote {task}" for task in summary["tasks"]]
    return steps
