"""WNUT-17 by the real parts, from its own tweets alone, beside a linear-chain CRF and logistic regression."""

import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.arms.crf import predict_by_crf
from benchmarks.arms.from_texts import learn_language, learn_task, over_draws
from pipeline.common.params import Evaluate, Finetune, Model, Pretrain, Source, Task, Tokenizer
from pipeline.corpus.files import read_files
from pipeline.evaluation.resampling import beside_baselines
from pipeline.evaluation.word_shapes import predict_by_word_shapes
from pipeline.tasks.rows import of_split
from pipeline.tasks.span_metrics import count_spans, span_figures, span_metrics
from pipeline.tasks.token_classification import read_spans

TASK = Task(kind="token_classification", path="wnut17/*.conll", labels_per_class=None)
# Hardly tuned; what was tried is in docs/experiments.md.
TOKENIZER = Tokenizer(vocab_size=1500)
MODEL = Model(preset="modernbert", depth=2, hidden_size=128, context_length=128, dropout=0.1)
PRETRAIN = Pretrain(steps=0)
FINETUNE = Finetune(
    epochs=8,
    batch_size=32,
    learning_rate=0.002,
    token_dropout=0.2,
    dropout=0.3,
    max_tokens=128,
    validation_texts=2000,
)
SEEDS = 1  # fine-tunings
FIGURES = ("micro_f1", "macro_f1")


def wnut17(folder: Path, seed: int, epochs: int | None) -> dict[str, Any]:
    """Learn from the training texts of `folder`/wnut17, then their entities, and find those of the test texts.

    Returns:
        "parameters", "train_texts", "test_texts", "pretraining_seconds", "seconds" and "cpu_seconds" of all; "arms":
        {ARM: "seconds" of learning and finding, and the figures of `pipeline.tasks.span_metrics.span_metrics`};
        "figures" of the first seed with intervals, and by how much it leads the other arms; "seeds": the micro-F1 of
        each seed's model, "values", "mean" and "deviation"; "left_out" {ARM: why}.
    """
    started, cpu_started = time.perf_counter(), time.process_time()
    settings = FINETUNE.model_copy(update={} if epochs is None else {"epochs": epochs})
    where, source = str(folder), Source(kind="files", path=str(folder), documents=[])
    rows = read_files(source, {"entities": TASK}, seed).tasks["entities"]
    learned, test = of_split(rows, "train", where), of_split(rows, "test", where)
    texts, truth = test["text"].tolist(), read_spans(test)
    pretrained = learn_language(learned["text"].tolist(), TOKENIZER, MODEL, PRETRAIN, seed)
    pretraining_seconds = time.perf_counter() - started

    begun = time.perf_counter()
    models = [learn_task(rows, where, pretrained, TASK, settings, one) for one in range(seed, seed + SEEDS)]
    labels = models[0].labels
    counts = [count_spans(truth, model.predict(texts), labels) for model in models]
    found, seconds = {"predicted": counts[0]}, {"predicted": (time.perf_counter() - begun) / SEEDS}
    others, left_out = {"crf": predict_by_crf, "word_shapes": predict_by_word_shapes}, {}
    if find_spec("pycrfsuite") is None:
        del others["crf"]
        left_out["crf"] = "there is no python-crfsuite; pip install -e .[bench]"
    for name, predict in others.items():
        begun = time.perf_counter()
        found[name] = count_spans(truth, predict(learned["text"].tolist(), read_spans(learned), texts, labels), labels)
        seconds[name] = time.perf_counter() - begun
    return {
        "parameters": sum(parameter.numel() for parameter in models[0].model.parameters()),
        "train_texts": len(learned),
        "test_texts": len(test),
        "pretraining_seconds": pretraining_seconds,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu_started,
        "arms": {name: {"seconds": seconds[name], **span_metrics(each, labels)} for name, each in found.items()},
        "figures": beside_baselines(found, span_figures, FIGURES, Evaluate(), seed),
        "seeds": over_draws([float(span_figures(each.sum(axis=0))["micro_f1"]) for each in counts]),
        "left_out": left_out,
    }
