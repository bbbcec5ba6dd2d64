"""Multi30k English to German by the real parts, from random weights: pairs to translations, and their figures."""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import wait_for_device
from pipeline.common.params import Compute, Finetune, Model, Source, Task
from pipeline.corpus.files import read_files
from pipeline.evaluation.intervals import interval
from pipeline.evaluation.resampling import resampled_figures
from pipeline.model.config import derive_config
from pipeline.tasks.sequence_to_sequence import SequenceToSequence, flops_per_token
from pipeline.tasks.text_metrics import FIGURES, count_texts, signatures, text_figures
from pipeline.tasks.text_writer import TextWriter
from pipeline.tokenization.training import train_tokenizer
from pipeline.training.loop import TrainPlan, train
from pipeline.training.optimizers import finetuning_optimizers, trapezoid
from pipeline.training.runtime import choose_runtime

TASK = Task(
    kind="sequence_to_sequence",
    path="multi30k/*.en.gz",
    target_path="multi30k/*.de.gz",
    pretrain_on=True,
    labels_per_class=None,
    max_target_tokens=63,
    beams=5,
    measure="bleu",
)
VOCABULARY = 6000
MODEL = Model(
    preset="qwen3", family="encoder-decoder", depth=3, hidden_size=256, context_length=64, tied_embeddings=True
)
FINETUNE = Finetune(
    epochs=6,
    batch_size=128,
    optimizer="muon",
    learning_rate=0.004,
    muon_learning_rate=0.02,
    weight_decay=0.05,
    warmup_share=0.05,
    dropout=0.15,
    label_smoothing=0.1,
    max_tokens=63,
    validation_texts=256,
)
EPOCHS_PER_VALIDATION = 2
SAMPLES, CONFIDENCE = 1000, 0.95


def multi30k(folder: Path, seed: int, epochs: int | None) -> dict[str, Any]:
    """Learn from the training pairs of `folder`/multi30k and translate the test sentences.

    Returns:
        "parameters", "epochs", "steps", "compiled", "pairs", "test_rows"; "seconds" of all from the files to the
        trained network, validation included, and "writing_seconds" of the test; "curve": [{"seconds", and the figures
        on validation, written greedily}]; "figures" on the test, by beam search, each {"value", "low", "high"};
        "greedy_bleu"; "signatures" of sacrebleu.
    """
    started = time.perf_counter()
    settings = FINETUNE.model_copy(update={} if epochs is None else {"epochs": epochs})
    source = Source(kind="files", path=str(folder), documents=[])
    corpus = read_files(source, {"german": TASK}, seed)
    rows, documents = corpus.tasks["german"], corpus.documents
    test = rows[rows["split"] == "test"]
    rows = rows[(rows["split"] != "train") | ~rows["text"].isin(test["text"])]
    tokenizer = train_tokenizer(documents.loc[documents["split"] == "train", "text"].tolist(), "bpe", VOCABULARY)
    config, _ = derive_config(MODEL, tokenizer.vocab_size)
    task = SequenceToSequence(rows, str(folder), tokenizer, TASK, settings, config, seed)
    batches = task.batches()
    steps = settings.epochs * batches.steps_per_epoch
    flops = flops_per_token(config)
    runtime = choose_runtime(Compute(), flops * settings.epochs * batches.tokens_per_epoch, shapes=len(batches.buckets))
    torch.manual_seed(seed)
    model = task.model().to(runtime.device)
    curve: list[dict[str, float]] = []

    def validate() -> dict[str, float]:
        found = task.measure(model, runtime.device)
        curve.append({"seconds": time.perf_counter() - started, **found})
        return found

    every = min(EPOCHS_PER_VALIDATION, settings.epochs) * batches.steps_per_epoch
    schedule = trapezoid(steps, settings.warmup_share, 1 - settings.warmup_share)
    with tempfile.TemporaryDirectory(prefix="hallmark-benchmark-") as scratch:
        train(
            model,
            task.loss,
            batches,
            finetuning_optimizers(model.body, model.head, settings, schedule),
            TrainPlan(
                name="multi30k",
                steps=steps,
                gradient_clip=settings.gradient_clip,
                validate_every=every,
                checkpoint_every=every,
                flops_per_token=flops,
                best_metric=task.best_metric,
            ),
            runtime,
            scratch=Path(scratch),
            validate=validate,
            report=lambda _step, _values: None,
        )
    wait_for_device()
    seconds = time.perf_counter() - started
    model.eval()
    texts, truth = test["text"].tolist(), test["target"].tolist()
    precision = {"precision": str(runtime.precision).removeprefix("torch.")}
    begun = time.perf_counter()
    with runtime.eager():
        written = TextWriter(model, tokenizer, task.config | precision).predict(texts)
        writing_seconds = time.perf_counter() - begun
        greedy = TextWriter(model, tokenizer, task.config | precision | {"beams": 1}).predict(texts)
    resampled = resampled_figures(count_texts(truth, written), text_figures, samples=SAMPLES, seed=seed)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "epochs": settings.epochs,
        "steps": steps,
        "compiled": runtime.compile,
        "pairs": int((rows["split"] == "train").sum()),
        "test_rows": len(test),
        "seconds": seconds,
        "writing_seconds": writing_seconds,
        "curve": curve,
        "figures": {name: dict(interval(resampled[name], CONFIDENCE)) for name in FIGURES},
        "greedy_bleu": float(text_figures(count_texts(truth, greedy).sum(axis=0))["bleu"]),
        "signatures": signatures(truth),
    }
