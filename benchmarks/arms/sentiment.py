"""SST-2 by the real parts, from its own sentences alone, beside TF-IDF + logistic regression of the same labels."""

import time
from pathlib import Path
from typing import Any

from benchmarks.arms.from_texts import learn_language, learn_task, over_draws
from pipeline.common.params import Finetune, Model, Pretrain, Promote, Source, Task, Tokenizer
from pipeline.corpus.files import read_files
from pipeline.evaluation.baselines import predict_tfidf
from pipeline.evaluation.comparison import Comparison, compare
from pipeline.evaluation.tallies import tally_labels
from pipeline.tasks.rows import draw_labels, of_split

TASK = Task(path="sst2/*.tsv", text_column=1, label_column=2)
# Chosen on validation, see docs/experiments.md.
TOKENIZER = Tokenizer(vocab_size=10_000)
MODEL = Model(preset="modernbert", depth=1, hidden_size=128, context_length=64, dropout=0.3)
PRETRAIN = Pretrain(steps=0)  # on so few sentences it helped nothing
FINETUNE = Finetune(
    batch_size=32,
    learning_rate=0.002,
    weight_decay=0.1,
    token_dropout=0.5,
    dropout=0.3,
    max_tokens=64,
    validation_texts=1000,
    ngrams=True,
)
EPOCHS = {32: 30, 100: 20, 316: 12, 1000: 8, None: 6}  # by the labels of each class; None: all
DRAWS = 3  # of labels and of all that is random in fine-tuning
PROMOTE = Promote()


def sst2(folder: Path, seed: int, epochs: int | None) -> dict[str, Any]:
    """Learn from the training sentences of `folder`/sst2, then from some or all of their labels, and label the test's.

    The validation split chooses the epoch whose weights are kept; TF-IDF has no use for it.

    Returns:
        "parameters", "sentences", "test_rows"; "pretraining_seconds", "seconds" and "cpu_seconds" of all; "curve":
        for each number of labels {"labels_per_class", "labels", "seconds", "verdict" (of the first draw), and of
        "hallmark" and "tfidf" each {"values" (the accuracies of the draws), "mean", "deviation" (None of one)}};
        "comparison" of the first draw at all labels, TF-IDF the champion: see `pipeline.evaluation.comparison`.
    """
    started, cpu_started = time.perf_counter(), time.process_time()
    where, source = str(folder), Source(kind="files", path=str(folder), documents=[])
    rows = read_files(source, {"sentiment": TASK}, seed).tasks["sentiment"]
    learned, test = of_split(rows, "train", where), of_split(rows, "test", where)
    texts, truth = test["text"].tolist(), test["label"].tolist()
    pretrained = learn_language(learned["text"].tolist(), TOKENIZER, MODEL, PRETRAIN, seed)
    pretraining_seconds = time.perf_counter() - started
    classes, parameters = sorted(set(truth)), 0

    def compare_draw(count: int | None, draw: int) -> Comparison:
        nonlocal parameters
        drawn, _ = draw_labels(learned, count, draw)
        task = TASK.model_copy(update={"labels_per_class": count})
        settings = FINETUNE.model_copy(update={"epochs": epochs or EPOCHS[count]})
        model = learn_task(rows, where, pretrained, task, settings, draw)
        parameters = sum(weight.numel() for weight in model.model.parameters() if weight.is_floating_point())
        theirs = predict_tfidf(drawn["text"].tolist(), drawn["label"].tolist(), texts)
        ours = model.predict(texts)
        tally = tally_labels(truth, (theirs, ours), classes)
        return compare(tally, alpha=PROMOTE.alpha, margin=PROMOTE.margin, seed=seed)

    curve, comparisons = [], []
    for count in EPOCHS:
        begun = time.perf_counter()
        comparisons = [compare_draw(count, draw) for draw in range(seed, seed + DRAWS)]
        curve.append(
            {
                "labels_per_class": count,
                "labels": len(draw_labels(learned, count, seed)[0]),
                "seconds": time.perf_counter() - begun,
                "verdict": comparisons[0].verdict,
                "hallmark": over_draws([one.challenger["accuracy"] for one in comparisons]),
                "tfidf": over_draws([one.champion["accuracy"] for one in comparisons]),
            }
        )
    return {
        "parameters": parameters,
        "sentences": len(learned),
        "test_rows": len(test),
        "pretraining_seconds": pretraining_seconds,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu_started,
        "curve": curve,
        "comparison": comparisons[0].to_dict(),
    }
