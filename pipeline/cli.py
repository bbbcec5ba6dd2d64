"""The command `hallmark`. Each verb is one call into a room, imported when it is used."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from pipeline.common.environment import be_quick, be_quiet
from pipeline.common.errors import HallmarkError


class HallmarkGroup(TyperGroup):
    """Commands whose known errors are a message and exit status 1, without a traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except HallmarkError as error:
            typer.echo(f"hallmark: {error}", err=True)
            raise typer.Exit(1) from None


app = typer.Typer(
    cls=HallmarkGroup, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)
Task = Annotated[str, typer.Argument(help="a task of params.yaml")]
TaskOrAll = Annotated[str | None, typer.Argument(help="a task of params.yaml; all of them without it")]
AsJson = Annotated[bool, typer.Option("--json", help="one JSON object instead of a table")]


@app.callback()
def hallmark() -> None:
    """Raw text and labels to a registered, promoted language model. `dvc repro` builds it; these look and promote."""
    be_quiet()
    be_quick()
    if not Path("dvc.yaml").exists():
        raise HallmarkError(
            "this folder is no Hallmark project: it has no dvc.yaml", where=str(Path.cwd()), fix="cd to its root"
        )


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Check versions, compiler, disk, ports, locks, GPU and stale processes; say for each fault what to type."""
    from pipeline.doctor import examine, print_findings

    findings = examine()
    if as_json:
        _print_json([finding.to_dict() for finding in findings])
    else:
        print_findings(findings)
    if any(finding.is_fault for finding in findings):
        raise typer.Exit(1)


@app.command()
def summary(as_json: AsJson = False) -> None:
    """Print the result table of the present build."""
    from pipeline.summary import print_summary, summarize

    found = summarize()
    if as_json:
        _print_json(found)
    else:
        print_summary(found)


@app.command()
def params(
    defaults: Annotated[
        bool, typer.Option("--defaults", help="the settings as shipped, not those in params.yaml")
    ] = False,
) -> None:
    """Print every setting with its meaning, and what is derived from the dial `model.depth`."""
    from pipeline.common.params import Params, load_params, render
    from pipeline.model.config import derive_config

    settings = Params() if defaults else load_params()
    typer.echo(render(settings))
    if settings.model.init_from is not None:
        typer.echo(f"# Derived: nothing; the network is that of {settings.model.init_from}")
        return
    _config, derived = derive_config(settings.model, settings.tokenizer.vocab_size)
    typer.echo("# Derived:")
    for name, value in derived.items():
        typer.echo(f"#   model.{name}: {value}")


@app.command("check-data")
def check_data(
    task: Annotated[str | None, typer.Option(help="only this task of params.yaml; documents are not checked")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with your files, row by row, as a build would find it; exit status 1 if it would stop."""
    from dataclasses import asdict

    from pipeline.common.params import load_params
    from pipeline.corpus.check_data import check_data as check

    findings = check(load_params(), task)
    if as_json:
        _print_json(asdict(findings) | {"stops": findings.stops})
    else:
        for line in findings.lines():
            typer.echo(line)
    if findings.stops:
        raise typer.Exit(1)


@app.command()
def sync() -> None:
    """Send to MLflow what it has missed of the builds here."""
    from pipeline.tracking.sync import sync_build

    report = sync_build()
    for line in report.lines():
        typer.echo(line)
    if report.uri is not None and not report.reached:
        raise typer.Exit(1)


@app.command()
def register(task: TaskOrAll = None) -> None:
    """See that the registry in use has the built model as `challenger`."""
    from pipeline.common.params import load_params
    from pipeline.tracking.registry import register_task

    for name in [task] if task else load_params().tasks:
        typer.echo(register_task(name))


@app.command()
def export(
    what: Annotated[str, typer.Argument(help="a stage (pretrain, finetune@TASK), an MLflow run's id, or NAME@ALIAS")],
    folder: Annotated[Path, typer.Argument(help="a new folder, or one of an earlier export")],
) -> None:
    """Write a model in the form that transformers, vLLM and others load without code of ours."""
    from pipeline.model.interchange.exporting import export_model
    from pipeline.tracking.locate import model_folder

    with model_folder(what) as found:
        export, is_new = export_model(found, folder)
    typer.echo(f"{folder}: {export.model_class}{'' if is_new else ', there already with the same bytes'}")
    for name, content in export.files.items():
        typer.echo(f"  {name}  {len(content):,} bytes")
    for note in export.notes:
        typer.echo(f"note: {note}")


@app.command()
def generate(
    what: Annotated[
        str, typer.Argument(help="a stage (pretrain, import), a folder, an MLflow run's id, or NAME@ALIAS")
    ] = "pretrain",
    prompts: Annotated[list[str] | None, typer.Argument(help="texts to continue; without any, lines read")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="tokens to add, at most")] = 128,
    temperature: Annotated[float, typer.Option(help="draw tokens; 0 takes the likeliest each time")] = 0.0,
    top_k: Annotated[int | None, typer.Option(help="draw among this many likeliest tokens")] = None,
    top_p: Annotated[float | None, typer.Option(help="draw among those that together have this probability")] = None,
    min_p: Annotated[float | None, typer.Option(help="draw among those this fraction as likely as the best")] = None,
    repetition_penalty: Annotated[float, typer.Option(help="above 1: what is there already is less likely")] = 1.0,
    beams: Annotated[int, typer.Option(help="texts kept side by side in beam search; 1: none")] = 1,
    length_penalty: Annotated[float, typer.Option(help="with beams: above 0 favours longer texts")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="end before this string; may be given several times")] = None,
    seed: Annotated[int, typer.Option(help="of the draws; the same one gives the same text")] = 0,
    precision: Annotated[str, typer.Option(help="float32, or bfloat16: faster, rounded")] = "float32",
    stream: Annotated[bool, typer.Option(help="write each text as it comes; else all prompts are one batch")] = True,
    as_json: AsJson = False,
) -> None:
    """Continue texts with a trained model: a decoder goes on from them, an encoder-decoder answers to them."""
    from pipeline.model.generation.settings import GenerationSettings
    from pipeline.model.generation.texts import TextGenerator
    from pipeline.tracking.locate import model_folder

    settings = GenerationSettings(
        max_new_tokens,
        temperature,
        top_k,
        top_p,
        min_p,
        repetition_penalty,
        beams,
        length_penalty,
        tuple(stop or ()),
        seed,
    )
    texts = prompts or _read_lines()
    batches = len(texts) if stream and not as_json else 1
    with model_folder(what) as folder:
        generator = TextGenerator.load(folder, precision=precision, steps=batches * max_new_tokens)
    typer.echo(", ".join(f"{name}: {reason}" for name, reason in generator.reasons.items()), err=True)
    if as_json:
        _print_json([found.to_dict() for found in generator.generate(texts, settings)])
    else:
        for piece in generator.write(texts, settings, stream=stream):
            typer.echo(piece, nl=False)


@app.command()
def int8(task: Task, as_json: AsJson = False) -> None:
    """Measure what int8 costs a built model in its task's figures, and what it gains in speed, on this CPU."""
    from dataclasses import asdict

    from pipeline.common.params import load_params
    from pipeline.evaluation.int8 import measure_int8

    report = measure_int8(task, load_params())
    if as_json:
        _print_json(asdict(report))
    else:
        typer.echo("\n".join(report.lines()))


@app.command()
def cross_validate(
    task: Task,
    folds: Annotated[int, typer.Option(help="parts of the labelled rows; each is held out once")] = 5,
    as_json: AsJson = False,
) -> None:
    """Fine-tune on all folds but one, for each, and measure the one: figures, mean and deviation."""
    import sys
    from contextlib import redirect_stdout

    from pipeline.common.files import write_json
    from pipeline.common.layout import home
    from pipeline.common.params import load_params
    from pipeline.evaluation.cross_validation import cross_validate as measure_folds
    from pipeline.tracking.cross_validations import send_cross_validation

    begun, settings = time.time(), load_params()
    with redirect_stdout(sys.stderr):  # trainings tell how they go on; the figures alone are the output
        found = measure_folds(task, settings, folds)
    written = home() / "cross-validation" / f"{task}.json"
    write_json(written, found.to_dict())
    if as_json:
        _print_json(found.to_dict())
    else:
        typer.echo("\n".join([*found.lines(), str(written)]))
    typer.echo(send_cross_validation(found, settings, begun), err=as_json)


@app.command()
def chat(
    what: Annotated[str, typer.Argument(help="a stage (finetune@TASK), a folder, an MLflow run's id, or NAME@ALIAS")],
    messages: Annotated[list[str] | None, typer.Argument(help="what is said; without any, lines read")] = None,
) -> None:
    """Talk to a model of dialogues: each message is answered in view of all before it."""
    import sys

    from pipeline.common.dialogues import ASSISTANT, USER, Message
    from pipeline.tasks.assistant import load_assistant
    from pipeline.tracking.locate import model_folder

    with model_folder(what) as folder:
        assistant = load_assistant(folder)
    dialogue: list[Message] = []
    for said in messages or (line.rstrip("\n") for line in sys.stdin):
        dialogue.append(Message(USER, said))
        dialogue += [Message(ASSISTANT, answer) for answer in assistant.answer([dialogue])]
        typer.echo(dialogue[-1].content)


@app.command()
def ui(port: Annotated[int, typer.Option(help="of the UI on this machine")] = 5000) -> None:
    """Open the MLflow UI on what was built, until Ctrl-C."""
    from pipeline.ui import serve_ui

    raise typer.Exit(serve_ui(port))


@app.command()
def promote(task: Task) -> None:
    """Make the challenger of a task champion, if it is better outside the noise."""
    from pipeline.tracking.promotion import promote as decide

    for line in decide(task).lines():
        typer.echo(line)


@app.command()
def rollback(task: Task) -> None:
    """Make the version before the champion of a task champion again."""
    from pipeline.tracking.promotion import rollback as return_to_previous

    for line in return_to_previous(task).lines():
        typer.echo(line)


@app.command()
def reap() -> None:
    """Close the runs that MLflow or Prefect show as running although their process on this machine is gone."""
    from pipeline.tracking.sync import reap as close_builds

    lines = close_builds() + _clear_prefect_runs()
    for line in lines or ["nothing to close"]:
        typer.echo(line)


def _clear_prefect_runs() -> list[str]:
    from flows.command import check_server
    from flows.deploy import POOLS
    from flows.worker import clear_dead_runs

    try:
        check_server()
    except HallmarkError:
        return []  # without a server there is nothing that Prefect shows
    return [line for pool in POOLS for line in clear_dead_runs(pool)]


def _read_lines() -> list[str]:
    import sys

    lines = [] if sys.stdin.isatty() else sys.stdin.read().splitlines()
    if not lines:
        raise HallmarkError("there is no prompt", fix="hallmark generate pretrain 'A text' (or '' for a new document)")
    return lines


def _print_json(value: Any) -> None:
    import json

    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    app()
