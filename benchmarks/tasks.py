"""What the tasks reach on public data, by the real parts and from the data alone.

    multi30k   English to German captions (29,000 pairs) from random weights: BLEU on test_2016_flickr
    sst2       sentiment of sentences (6,920) from these alone: accuracy over the number of labels, beside
               TF-IDF and logistic regression
    wnut17     entities in tweets (3,394) from these alone: strict F1, beside a linear-chain CRF and logistic
               regression on word shapes

Each task learns with the settings of its module in benchmarks/arms, in a process of its own and with a cold cache of
compilations. The seconds of multi30k are those from the files to the trained network, of the others those of all.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.choices import choose
from benchmarks.machine import describe_machine
from benchmarks.shakespeare import in_own_process
from benchmarks.tables import format_table
from pipeline.common.errors import HallmarkError

Found = dict[str, Any]
TASKS = ("multi30k", "sst2", "wnut17")
TARGETS = {"multi30k": 38.0}  # of the task's first figure


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="has a folder for each task")
    parser.add_argument("--only", default="all", help=f"of {', '.join(TASKS)}, with commas (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--epochs", type=int, help="of every task, for a first look (default: each task's own)")
    parser.add_argument("--charts", type=Path, metavar="FOLDER", help="write each task's curve there as TASK.svg")


def run(options: argparse.Namespace) -> Found:
    """Train and measure every chosen task, one after another.

    Returns:
        "machine", "seed", "tasks": {TASK: what its function in `benchmarks.arms` found, and "target" where it has one}.

    Raises:
        HallmarkError: an unknown task, or there is no data of it.
    """
    chosen = choose(options.only, TASKS, "--only")
    for task in chosen:
        if not (options.data / task).is_dir():
            raise HallmarkError("there is no such folder", where=str(options.data / task), fix="see docs/tasks.md")
    works, machine = _works(), describe_machine()
    found = {
        task: in_own_process(works[task], options.data, options.seed, options.epochs)
        | ({"target": TARGETS[task]} if task in TARGETS else {})
        for task in chosen
    }
    if options.charts is not None:
        write_charts(options.charts, found)
    return {"machine": machine, "seed": options.seed, "tasks": found}


def _works() -> dict[str, Callable[..., Found]]:
    from benchmarks.arms import entities, sentiment, translation

    return {"multi30k": translation.multi30k, "sst2": sentiment.sst2, "wnut17": entities.wnut17}


def write_charts(folder: Path, tasks: dict[str, Found]) -> None:
    """The curves of the tasks that have one, as FOLDER/TASK.svg."""
    from pipeline.common.files import write_text

    draw = {"multi30k": draw_translation, "sst2": draw_sentiment}
    for task in (task for task in tasks if task in draw):
        write_text(folder / f"{task}.svg", draw[task](tasks[task]) + "\n")


def draw_translation(found: Found) -> str:
    from pipeline.evaluation.report.charts import Line, line_chart

    points = [(point["seconds"] / 60, point["bleu"]) for point in found["curve"]]
    return line_chart("Multi30k: BLEU on validation", "minutes", "BLEU", [Line("greedy", points)])


def draw_sentiment(found: Found) -> str:
    from pipeline.evaluation.report.charts import Fit, fit_chart

    arms = {"hallmark": "hallmark", "tfidf": "TF-IDF + logistic regression"}
    fits = [
        Fit(
            name,
            [(point["labels"], point[arm]["mean"]) for point in found["curve"]],
            [(point["labels"], value) for point in found["curve"] for value in point[arm]["values"]],
        )
        for arm, name in arms.items()
    ]
    return fit_chart("SST-2: accuracy on the test sentences", "labels", "accuracy", fits)


def format_result(result: Found) -> str:
    """The result as one table a task."""
    formats = {"multi30k": format_translation, "sst2": format_sentiment, "wnut17": format_entities}
    return "\n\n".join(formats[task](task, found) for task, found in result["tasks"].items())


def format_translation(task: str, found: Found) -> str:
    bleu, chrf = found["figures"]["bleu"], found["figures"]["chrf"]
    title = (
        f"{task}: BLEU {bleu['value']:.2f} ({bleu['low']:.2f} to {bleu['high']:.2f}) on {found['test_rows']:,} texts, "
        f"greedy {found['greedy_bleu']:.2f}, wanted {found['target']:g}; chrF {chrf['value']:.2f}\n"
        f"{found['parameters'] / 1e6:.1f}M parameters, {found['epochs']} epochs of {found['pairs']:,} pairs, "
        f"{found['steps']:,} steps, {'compiled' if found['compiled'] else 'eager'}: {found['seconds'] / 60:.1f} min; "
        f"translated in {found['writing_seconds']:.0f} s\n{found['signatures']['bleu']}"
    )
    rows = [
        (f"{point['seconds'] / 60:.1f}", f"{point['loss']:.3f}", f"{point['bleu']:.2f}", f"{point['chrf']:.2f}")
        for point in found["curve"]
    ]
    return f"{title}\n\n{format_table(('minutes', 'validation loss', 'BLEU, greedy', 'chrF'), rows)}"


def format_sentiment(task: str, found: Found) -> str:
    compared = found["comparison"]
    difference = compared["difference"]
    title = (
        f"{task}: accuracy {compared['challenger']['accuracy']:.4f}, TF-IDF {compared['champion']['accuracy']:.4f} on "
        f"{found['test_rows']:,} sentences at all labels: {compared['verdict']} (macro-F1 {difference['value']:+.4f}, "
        f"{difference['low']:+.4f} to {difference['high']:+.4f}, margin {compared['margin']:g}; McNemar p "
        f"{compared['discordant']['p_value']:.3f})\n"
    ) + _size_and_cost(found, f"{found['sentences']:,} sentences")
    rows = [
        (
            "all" if point["labels_per_class"] is None else f"{point['labels_per_class']:,}",
            f"{point['labels']:,}",
            _over_seeds(point["hallmark"]),
            _over_seeds(point["tfidf"]),
            point["verdict"],
            f"{point['seconds']:.0f}",
        )
        for point in found["curve"]
    ]
    draws = len(found["curve"][0]["hallmark"]["values"])
    header = ("labels per class", "labels", f"accuracy, {draws} draws", "TF-IDF", "first draw", "seconds")
    return f"{title}\n\n{format_table(header, rows)}"


def format_entities(task: str, found: Found) -> str:
    figures = found["figures"]
    f1 = figures["micro_f1"]
    title = (
        f"{task}: F1 {f1['value']:.4f} ({f1['low']:.4f} to {f1['high']:.4f}) on {found['test_texts']:,} texts, "
        f"mean over seeds ({len(found['seeds']['values'])}) {_over_seeds(found['seeds'])}\n"
    ) + _size_and_cost(found, f"{found['train_texts']:,} texts")
    parts = [title, *(f"left out: {arm}: {why}" for arm, why in found["left_out"].items())]
    arms = {"predicted": "hallmark", "crf": "CRF", "word_shapes": "logistic regression"}
    rows = []
    for name, arm in found["arms"].items():
        own = figures if name == "predicted" else figures["baselines"][name]
        lead = own.get("lead_micro_f1")
        rows.append(
            (
                arms[name],
                *(f"{arm[figure]['micro']:.4f}" for figure in ("precision", "recall", "f1")),
                f"{own['micro_f1']['low']:.3f} to {own['micro_f1']['high']:.3f}",
                f"{lead['value']:+.3f} ({lead['low']:+.3f} to {lead['high']:+.3f})" if lead else "",
                f"{own['macro_f1']['value']:.4f}",
                f"{arm['seconds']:.0f}",
            )
        )
    header = ("arm", "precision", "recall", "F1", "interval", "hallmark's lead", "macro-F1", "seconds")
    each = [
        (label, f"{own['spans']:,}", *(f"{arm['per_class'][label]['f1']:.3f}" for arm in found["arms"].values()))
        for label, own in found["arms"]["predicted"]["per_class"].items()
    ]
    of_types = format_table(("type", "entities", *(f"F1, {arms[name]}" for name in found["arms"])), each)
    return "\n".join(parts) + f"\n\n{format_table(header, rows)}\n\n{of_types}"


def _size_and_cost(found: Found, rows: str) -> str:
    return (
        f"{found['parameters'] / 1e6:.2f}M parameters, {rows}; "
        f"{found['seconds']:.0f} s in all, {found['cpu_seconds']:.0f} s of CPU"
    )


def _over_seeds(found: Found) -> str:
    spread = "" if found["deviation"] is None else f" +- {found['deviation']:.4f}"
    return f"{found['mean']:.4f}{spread}"
