"""Classification of texts and of pairs of texts: data, network, loss and figures, and the trained classifier.

Legend: N texts, B rows of a batch, T positions, D hidden size, C classes, G n-grams.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

from pipeline.common.errors import HallmarkError, Problems, allowed
from pipeline.common.params import Finetune, Task
from pipeline.model.config import ModelConfig
from pipeline.model.transformer import Transformer
from pipeline.model.weights import load_weights
from pipeline.tasks.batches import Batch, LengthBuckets, bucket_lengths, pad_rows, pad_to_longest
from pipeline.tasks.encoding import encode_rows
from pipeline.tasks.metrics import class_numbers, classification_metrics
from pipeline.tasks.ngrams import PARTS, NgramExpert, fit_weights, most_common, ngram_keys, opinion_pool
from pipeline.tasks.rows import PAIR, Text, draw_labels, of_split, texts_of, validation_rows
from pipeline.tasks.trained import MEASURED_ROWS, Trained, read_trained, token_vectors
from pipeline.tokenization.tokenizer import Tokenizer

KIND = "classification"
POOLINGS = ("mean", "first", "last")
POOL_WEIGHTS = [f"weight_{part}" for part in ("network", *PARTS)]  # in the pool; names in the task's config


class TextClassifier(nn.Module):
    """A language model's body, its token vectors pooled to one text vector, and a linear head; perhaps with linear
    classifiers of n-grams beside it. These learn apart from the network, and the answer is the pool of all.

    Args:
        config: of the body; what predicts tokens is left out, and so is the decoder behind an encoder.
        classes: C.
        pooling: `mean` of the vectors of all tokens, or the vector of the `first` or `last`. The head on the last has
            no bias, as in published decoders that classify, so that it can be exported.
        dropout: on the text vector.
        separator: the id between the two texts, for a network that reads pairs.
        experts: for each of `PARTS`, or none.

    Attributes:
        weights: of the network and of each expert in the pool, see `pipeline.tasks.ngrams.opinion_pool`.
    """

    def __init__(
        self,
        config: ModelConfig,
        classes: int,
        pooling: str,
        dropout: float = 0.0,
        separator: int | None = None,
        experts: Sequence[NgramExpert] = (),
    ) -> None:
        super().__init__()
        if pooling not in POOLINGS:
            raise HallmarkError(f"unknown pooling {pooling!r}; {allowed(POOLINGS)}")
        self.body = Transformer(config, heads=False)
        self.pooling = pooling
        self.separator = separator
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(config.hidden_size, classes, bias=pooling != "last")
        nn.init.normal_(self.head.weight, std=0.02)
        if self.head.bias is not None:
            nn.init.zeros_(self.head.bias)
        self.experts: Any = nn.ModuleList(experts)
        self.weights = [1.0] * (1 + len(experts))

    def forward(self, ids_BT: Tensor, lengths_B: Tensor, *ngrams_BG: Tensor) -> Tensor:
        """Token ids (int64, padded on the right) and their counts to logits_BC, float32.

        `ngrams_BG` are the numbers of the n-grams that each expert knows, padded with 0.
        """
        return self.together(self.each(ids_BT, lengths_B, *ngrams_BG))

    def each(self, ids_BT: Tensor, lengths_B: Tensor, *ngrams_BG: Tensor) -> list[Tensor]:
        """The logits_BC of the network, and of each expert."""
        asked_B1 = pooled_places(lengths_B, self.pooling)
        x_BTD = token_vectors(self.body, ids_BT, lengths_B, self.separator, asked_B1)
        with torch.autocast(x_BTD.device.type, enabled=False):
            x_BD = mean_vectors(x_BTD.float(), lengths_B) if asked_B1 is None else x_BTD[:, 0].float()
            own_BC = self.head(self.dropout(x_BD))
        return [own_BC, *(expert(numbers) for expert, numbers in zip(self.experts, ngrams_BG, strict=True))]

    def together(self, logits: Sequence[Tensor]) -> Tensor:
        """One answer, logits_BC, of what `each` said."""
        return opinion_pool(logits, self.weights) if self.experts else logits[0]


def pooled_places(lengths_B: Tensor, pooling: str) -> Tensor | None:
    """The place of the token whose vector stands for its text, int64 (B, 1); None: all of its tokens do."""
    if pooling == "mean":
        return None
    places_B = torch.zeros_like(lengths_B) if pooling == "first" else (lengths_B - 1).clamp(min=0)
    return places_B[:, None]


def mean_vectors(x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
    """The mean x_BD of the first `lengths_B` vectors of each row; rows that only fill the batch have none, and 0."""
    valid_BT = torch.arange(x_BTD.size(1), device=x_BTD.device) < lengths_B[:, None]
    return (x_BTD * valid_BT[..., None]).sum(dim=1) / lengths_B.clamp(min=1)[:, None]


def drop_tokens(ids_BT: Tensor, lengths_B: Tensor, share: float, separator: int | None = None) -> tuple[Tensor, Tensor]:
    """Leave out tokens at random and close the gaps; the first one (`bos`) stays, and so does the separator of pairs.

    Drawn from torch's generator, whose state is in every checkpoint.
    """
    if not share:
        return ids_BT, lengths_B
    places_T = torch.arange(ids_BT.size(1), device=ids_BT.device)
    valid_BT = places_T < lengths_B[:, None]
    stays_BT = (torch.rand(ids_BT.shape, device=ids_BT.device) >= share) | (places_T == 0)
    if separator is not None:
        stays_BT |= ids_BT == separator
    kept_BT = valid_BT & stays_BT
    order_BT = (~kept_BT).int().argsort(dim=1, stable=True)
    return ids_BT.gather(1, order_BT), kept_BT.sum(dim=1)


def network_inputs(batch: Batch) -> list[Tensor]:
    """What a `TextClassifier` takes of a batch."""
    return [batch["input_ids"], batch["lengths"], *(batch[part] for part in PARTS if part in batch)]


def classification_loss(
    model: TextClassifier,
    batch: Batch,
    label_smoothing: float = 0.0,
    teacher_weight: float = 0.0,
    teacher_temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """The loss of the rows in nats, summed by their weights, and the number of rows, both scalars.

    That is the cross-entropy of the labels. Where the batch has a teacher's probabilities, its share is
    1 - `teacher_weight`, and the rest is the distance to the teacher. Rows that only fill the batch have no tokens, and
    the weight 0. Network and experts have such a loss each, and theirs is the sum: none learns what another one lacks.
    """

    def nats(logits_BC: Tensor) -> Tensor:
        nats_B = cross_entropy(logits_BC, batch["labels"], reduction="none", label_smoothing=label_smoothing)
        if "teacher" in batch:
            from_teacher_B = distance_to_teacher(logits_BC, batch["teacher"], teacher_temperature)
            nats_B = (1 - teacher_weight) * nats_B + teacher_weight * from_teacher_B
        return nats_B

    first, *others = (nats(logits_BC) for logits_BC in model.each(*network_inputs(batch)))
    nats_B = sum(others, start=first)
    return (nats_B * batch["weights"]).sum(), count_rows(batch)


def count_rows(batch: Batch) -> Tensor:
    """The rows of a batch that are examples, float32, a scalar."""
    return (batch["lengths"] > 0).sum().float()


def balanced_weights(counts_C: np.ndarray) -> np.ndarray:
    """N / (C count): what a text of each class weighs, float64 (C,), so that all classes weigh the same together.

    That is scikit-learn's `class_weight="balanced"` (after King and Zeng 2001). Over all texts the mean is 1.
    """
    return counts_C.sum() / (len(counts_C) * np.maximum(counts_C, 1))


def distance_to_teacher(logits_BC: Tensor, teacher_BC: Tensor, temperature: float) -> Tensor:
    """T^2 KL(teacher || student) of each row, in nats (Hinton, Vinyals and Dean 2015, arXiv:1503.02531).

    Both are softened by the temperature T: their probabilities are raised to 1 / T and scaled to a sum of 1. T^2 keeps
    the size of the gradients.

    Args:
        logits_BC: the student's.
        teacher_BC: the teacher's probabilities, not softened yet; a row of zeros has the distance 0.
        temperature: T.
    """
    soft_BC = teacher_BC ** (1 / temperature)
    soft_BC = soft_BC / soft_BC.sum(dim=1, keepdim=True).clamp(min=torch.finfo(soft_BC.dtype).tiny)
    student_BC = (logits_BC / temperature).log_softmax(dim=1)
    return temperature**2 * kl_div(student_BC, soft_BC, reduction="none").sum(dim=1)


class Classification:
    """One classification task, ready to be trained: see `pipeline.tasks.kinds.FinetuneTask`.

    Rows with a second text are read as pairs.

    Args:
        rows: the task's table, see `pipeline.tasks.rows.read_rows`.
        where: the file they come from, for messages.
        tokenizer: the model's own.
        task: settings of this task.
        settings: settings of fine-tuning.
        config: of the body.
        seed: decides which labels are drawn, and the order of the batches.

    Raises:
        HallmarkError: a split without rows, one class only, or a class that training has no row of.
    """

    kind = KIND
    best_metric = "macro_f1"

    def __init__(
        self,
        rows: pd.DataFrame,
        where: str,
        tokenizer: Tokenizer,
        task: Task,
        settings: Finetune,
        config: ModelConfig,
        seed: int,
    ) -> None:
        if settings.max_tokens > config.context_length:
            raise HallmarkError(
                f"{settings.max_tokens} tokens are more than the model's context of {config.context_length}",
                where="params.yaml: finetune.max_tokens",
                fix=f"set it to {config.context_length} or less, or raise model.context_length",
            )
        train, short = self.draw(of_split(rows, "train", where), task.labels_per_class, seed)
        validation = validation_rows(rows, where, settings.validation_texts, seed)
        self.labels = self.known_labels(rows, where)
        self.tokenizer, self.settings, self.body_config, self.seed = tokenizer, settings, config, seed
        self.separator = tokenizer.separator_id if PAIR in rows else None
        self.buckets = bucket_lengths(settings.max_tokens)
        self.train_rows, self.balanced = train, task.class_weights == "balanced"
        self.experts = learn_experts(texts_of(train), len(self.labels)) if settings.ngrams else []
        self.train, train_cut = self._encode(train, settings.batch_size)
        self.validation, validation_cut = self._encode(validation, MEASURED_ROWS)
        self.config = {
            "kind": self.kind,
            "labels": self.labels,
            "pooling": settings.pooling,
            "max_tokens": settings.max_tokens,
            "pairs": PAIR in rows,
        }
        self.facts: dict[str, Any] = {
            "labels": len(self.labels),
            "train_texts": len(train),
            "train_texts_cut": train_cut,
            "validation_texts": len(validation),
            "validation_texts_cut": validation_cut,
            "classes_with_too_few_texts": short,
        }
        self.facts |= {f"ngrams.{part}": len(one.keys) for part, one in zip(PARTS, self.experts, strict=False)}

    def draw(self, rows: pd.DataFrame, per_class: int | None, seed: int) -> tuple[pd.DataFrame, dict[str, int]]:
        return draw_labels(rows, per_class, seed)

    def known_labels(self, rows: pd.DataFrame, where: str) -> list[str]:
        return known_labels(rows, where)

    def targets(self, rows: pd.DataFrame) -> Tensor:
        """What is to be learned of each row: its class number, int64 (N,)."""
        return torch.from_numpy(class_numbers(rows["label"].tolist(), self.labels))

    def weights(self, targets: Tensor) -> Tensor:
        """What each target weighs in the loss, float32 of their shape."""
        if not self.balanced:
            return torch.ones(targets.shape)
        counts_C = torch.bincount(targets, minlength=len(self.labels)).numpy()
        return torch.from_numpy(balanced_weights(counts_C)).float()[targets]

    def learn_from(self, teacher_NC: Tensor) -> None:
        """Learn from a teacher's probabilities of `labels` for each of `train_rows` as well; call before `batches`."""
        self.train, _ = self._encode(self.train_rows, self.settings.batch_size, teacher_NC)

    def _encode(
        self, rows: pd.DataFrame, batch_size: int, teacher_NC: Tensor | None = None
    ) -> tuple[LengthBuckets, int]:
        ids, cut = encode_rows(texts_of(rows), self.tokenizer, self.settings.max_tokens)
        ngrams = known_ngrams(self.experts, texts_of(rows))
        targets = self.targets(rows)
        of_rows = {"labels": targets, "weights": self.weights(targets)}
        if teacher_NC is not None:
            of_rows["teacher"] = teacher_NC

        def collate(numbers: np.ndarray, length: int) -> Batch:
            ids_BT, lengths_B = pad_rows([ids[n] for n in numbers], batch_size, length, self.tokenizer.pad_id)
            batch = {"input_ids": ids_BT, "lengths": lengths_B}
            for name, values in of_rows.items():
                batch[name] = torch.zeros(batch_size, *values.shape[1:], dtype=values.dtype)
                batch[name][: len(numbers)] = values[torch.from_numpy(numbers)]
            for part, known in zip(PARTS, ngrams, strict=False):
                batch[part] = pad_to_longest([known[n] for n in numbers], batch_size)
            return batch

        lengths_N = np.array([len(tokens) for tokens in ids])
        return LengthBuckets(lengths_N, self.buckets, batch_size, collate, self.seed, rows["id"].tolist()), cut

    def model(self) -> TextClassifier:
        settings, classes = self.settings, len(self.labels)
        experts = [NgramExpert(expert.keys.data, classes) for expert in self.experts]
        return TextClassifier(self.body_config, classes, settings.pooling, settings.dropout, self.separator, experts)

    def batches(self) -> LengthBuckets:
        return self.train

    def loss(self, model: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        settings = self.settings
        return classification_loss(
            model,
            self.shortened(batch),
            settings.label_smoothing,
            settings.teacher_weight,
            settings.teacher_temperature,
        )

    def shortened(self, batch: Batch) -> Batch:
        """The batch with some of its tokens left out, drawn anew at every call."""
        ids_BT, lengths_B = drop_tokens(
            batch["input_ids"], batch["lengths"], self.settings.token_dropout, self.separator
        )
        return batch | {"input_ids": ids_BT, "lengths": lengths_B}

    def measure(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """Validation loss (without smoothing), accuracy and macro-F1; call in eval mode without gradients."""
        nats, truth, predicted = 0.0, [], []
        for logits_BC, labels_B in self.answers(model, device):
            nats += float(self.nats(logits_BC, labels_B))
            truth += [self.labels[place] for place in labels_B.tolist()]
            predicted += [self.labels[place] for place in logits_BC.argmax(dim=1).tolist()]
        found = classification_metrics(truth, predicted, self.labels)
        return {"loss": nats / len(truth), "accuracy": found["accuracy"], "macro_f1": found["f1"]["macro"]}

    def answers(self, model: Any, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
        """What the model says of the validation texts, and what is true of them, batch by batch."""
        return ((model.together(logits), targets) for logits, targets in self.answers_of_each(model, device))

    def answers_of_each(self, model: Any, device: torch.device) -> Iterator[tuple[list[Tensor], Tensor]]:
        """The same of the network and of each expert alone."""
        for numbers, batch in self.validation.one_pass():
            moved = {name: value.to(device) for name, value in batch.items()}
            logits = [logits_BC[: len(numbers)] for logits_BC in model.each(*network_inputs(moved))]
            yield logits, moved["labels"][: len(numbers)]

    def tune(self, model: Any, device: torch.device) -> dict[str, float]:
        """What network and experts weigh in the pool, fitted to validation; without experts {}.

        Call in eval mode without gradients.
        """
        if not model.experts:
            return {}
        found, targets = zip(*self.answers_of_each(model, device), strict=True)
        logits, truth = [torch.cat(batches) for batches in zip(*found, strict=True)], torch.cat(targets)
        model.weights = fit_weights(logits, lambda pooled_NC: self.nats(pooled_NC, truth))
        return dict(zip(POOL_WEIGHTS, model.weights, strict=True))

    def nats(self, logits_NC: Tensor, targets: Tensor) -> Tensor:
        """The loss of these logits, without smoothing and weights, summed."""
        return cross_entropy(logits_NC, targets, reduction="sum")


def learn_experts(texts: Sequence[Text], classes: int) -> list[NgramExpert]:
    """One for each of `PARTS`, untrained, that knows the n-grams of these texts."""
    return [NgramExpert(most_common(ngram_keys(texts, part)), classes) for part in PARTS]


def known_ngrams(experts: Sequence[NgramExpert], texts: Sequence[Text]) -> list[list[np.ndarray]]:
    """For each expert, the numbers of the n-grams that it knows of each text."""
    return [expert.numbers(ngram_keys(texts, part)) for part, expert in zip(PARTS, experts, strict=False)]


def known_labels(rows: pd.DataFrame, where: str) -> list[str]:
    """The labels that training knows, sorted.

    Raises:
        HallmarkError: fewer than two, or validation or test rows have labels that no training row has.
    """
    known = sorted(rows.loc[rows["split"] == "train", "label"].unique().tolist())
    problems = Problems(where)
    if len(known) < 2:
        problems.add(f"every training row has the label {known[0]!r}: there is nothing to tell apart")
    others = rows[~rows["label"].isin(known)]
    for label, count in others["label"].value_counts().sort_index().items():
        problems.add(f"{count} rows have the label {label!r}, which no training row has")
    problems.raise_if_any(fix="give training rows of at least two classes, and of every class that is tested")
    return known


def read_classifier(
    folder: Path | str, kind: str, device: str = "cpu"
) -> tuple[TextClassifier, Tokenizer, dict[str, Any]]:
    """Network, tokenizer and "task" of the config of a folder that `save_trained` wrote.

    Raises:
        HallmarkError: weights or tokenizer are not the ones that were saved, or the task is of another kind.
    """
    weights, config, tokenizer = read_trained(folder, kind)
    task = config["task"]
    separator = tokenizer.separator_id if task.get("pairs") else None
    shape = ModelConfig.from_dict(config["model"])
    classes = len(task["labels"])
    keys = [value for name, value in sorted(weights.items()) if name.startswith("experts.") and name.endswith(".keys")]
    experts = [NgramExpert(keys_F, classes) for keys_F in keys]
    model = TextClassifier(shape, classes, task["pooling"], separator=separator, experts=experts)
    load_weights(model, weights)
    if experts:
        model.weights = [task[name] for name in POOL_WEIGHTS]
    return model.to(device).eval(), tokenizer, task


def load_classifier(folder: Path | str, device: str = "cpu") -> "Classifier":
    """Read a folder that `save_trained` wrote. Raises HallmarkError: see `read_classifier`."""
    return Classifier(*read_classifier(folder, KIND, device))


class Classifier(Trained):
    """A trained classifier, of texts or of pairs of texts."""

    model: TextClassifier

    @property
    def reads_pairs(self) -> bool:
        return self.model.separator is not None

    @torch.inference_mode()
    def predict_probabilities(self, texts: Sequence[Text]) -> np.ndarray:
        """The probability of each of `labels` for each text or pair, float32 (N, C)."""
        probabilities_NC = np.zeros((len(texts), len(self.labels)), dtype=np.float32)
        ids, _ = encode_rows(texts, self.tokenizer, self.max_tokens)
        for some, logits_BC in self.logits(ids, *known_ngrams(self.model.experts, texts)):
            probabilities_NC[some] = self.probabilities(logits_BC)[: len(some)].cpu().numpy()
        return probabilities_NC

    def probabilities(self, logits_BC: Tensor) -> Tensor:
        return logits_BC.softmax(dim=1)

    def predict(self, texts: Sequence[Text]) -> list[Any]:
        """The likeliest label of each text or pair; the first of equals."""
        return [self.labels[place] for place in self.predict_probabilities(texts).argmax(axis=1)]
